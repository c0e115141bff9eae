"""The whole job on a small sample set: train, resume, infer, vote, score; wrong input."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import dataset
import inference
from core import metrics
from core.errors import UserError
from core.folders import IMAGE_EXTENSIONS, ROOT
from core.labels import decode
from model import MaskClassifier
from prediction import Predictor, submission, tables
from prediction.model_file import read_description
from training import settings

BEST = "best.safetensors"


def answered(drawn, model_dir, output, *flags):
    inference.main(
        inference.parse_args(
            [
                "--model_dir",
                str(model_dir),
                "--data_dir",
                str(drawn / "eval"),
                "--output_dir",
                str(output),
                "--overwrite",
                "--precision",
                "fp32",
                *flags,
            ]
        )
    )


def script(*arguments, **more):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **more
    )


def test_from_photos_to_a_scored_vote(drawn, trained, tmp_path):
    model_dir, output = tmp_path / "model", tmp_path / "output"
    first = trained(drawn, model_dir, "--epochs", "2", "--head", "years", name="a")
    trained(
        drawn,
        model_dir,
        "--epochs",
        "1",
        "--head",
        "joint",
        "--criterion",
        "cross_entropy_f1",
        "--mixup",
        "0.5",
        "--half_face",
        "0.5",
        "--ema",
        "0.9",
        "--sampling",
        "balanced",
        "--thin",
        "2",
        name="b",
    )
    for file in (
        "config.json",
        "split.csv",
        "metrics.csv",
        "val_predictions.csv",
        "best.safetensors",
        "last.ckpt",
    ):
        assert (first / file).is_file()
    table = pd.read_csv(first / "metrics.csv")
    assert list(table["epoch"]) == [1, 2]
    predictions, _ = tables.read_predictions(first)
    split = pd.read_csv(first / "split.csv")
    assert set(predictions["person"]) == set(split["person"][split["fold"] == 0])
    assert np.isclose(dataset_score(predictions), table["macro_f1"].max(), atol=1e-9)

    of_inference = Predictor(first, precision="fp32", layout="last").probabilities(
        predictions["path"].tolist()
    )
    of_validation = predictions[[f"p{label}" for label in range(18)]]
    np.testing.assert_allclose(of_inference, of_validation, atol=1e-5)

    answered(drawn, model_dir, output, "--name", "a", "--tta")
    once = submission.read_probabilities(output / "a.npz")[1]
    answered(drawn, model_dir, output, "--name", "a", "--tta", "flip")
    flipped = submission.read_probabilities(output / "a.npz")[1]
    answered(drawn, model_dir, output, "--name", "a")  # as it was validated: --tta flip
    assert (
        np.array_equal(submission.read_probabilities(output / "a.npz")[1], flipped)
        and np.abs(once - flipped).max() > 1e-4
    )
    answered(drawn, model_dir, output, "--name", "b")
    done = script(
        ROOT / "ensemble.py",
        "vote",
        output / "a.csv",
        output / "b.csv",
        "--top_k",
        "2",
        "--output",
        output / "vote.csv",
    )
    assert done.returncode == 0, done.stderr
    info = pd.read_csv(drawn / "eval" / "info.csv")
    for name in ("a", "b", "vote"):
        assert list(submission.read_submission(output / f"{name}.csv")["ImageID"]) == list(
            info["ImageID"]
        )
    done = script(ROOT / "report.py", "score", output / "vote.csv", drawn / "eval_answers.csv")
    assert done.returncode == 0 and "macro-F1" in done.stdout


def dataset_score(predictions):
    from sklearn.metrics import f1_score

    return f1_score(predictions["label"], predictions["ans"], average="macro")


def test_folds_give_out_of_fold_predictions_of_everybody_once(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--folds", "2", "--epochs", "1")
    predictions, _ = tables.read_predictions(run)
    assert sorted(predictions["path"]) == sorted(dataset.read_train(drawn / "train")["path"])
    for fold in (0, 1):
        mine = pd.read_csv(run / f"fold-{fold}" / "val_predictions.csv")["person"]
        split = pd.read_csv(run / "split.csv")
        assert set(mine) == set(split["person"][split["fold"] == fold])
    answered(
        drawn, tmp_path, tmp_path / "output"
    )  # without --name: the latest run, all its folds averaged
    sidecar = json.loads((tmp_path / "output" / "a.json").read_text())
    assert len(sidecar["files"]) == 2
    assert np.isclose(sidecar["macro_f1"], dataset_score(predictions), atol=1e-9)


def test_offsets_from_the_class_frequencies_reach_validation_and_predictions(
    drawn, trained, tmp_path, capsys
):
    flags = ("--epochs", "1", "--drop_ages", "61", "120")
    run = trained(drawn, tmp_path, *flags)
    assert "from the class frequencies" in capsys.readouterr().out
    frame, split = dataset.read_train(drawn / "train"), pd.read_csv(run / "split.csv")
    trains = frame["person"].isin(split["person"][split["fold"] == -1])
    labels = frame["label"][trains & (frame["age"] <= 60)]
    offsets = load_file(run / "best.safetensors")["offsets"].numpy()
    assert np.allclose(offsets, metrics.frequency_offsets(decode(labels.to_numpy())), atol=1e-6)
    assert np.ptp(offsets) > 0.1

    bare = trained(drawn, tmp_path, *flags, "--offsets", "no", name="b")
    assert not load_file(bare / "best.safetensors")["offsets"].any()
    validated, log_probabilities = tables.read_predictions(run)
    expected = tables.read_predictions(bare)[1] + offsets
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    assert np.abs(log_probabilities - expected).max() < 1e-3
    assert np.array_equal(validated["ans"], expected.argmax(axis=1))

    predicted = []
    for name, more in (("a", ()), ("b", ()), ("a", ("--offsets", "no"))):
        answered(drawn, tmp_path, tmp_path / "output", "--name", name, *more)
        predicted.append(submission.read_probabilities(tmp_path / "output" / f"{name}.npz")[1])
    assert np.abs(predicted[0] - predicted[1]).max() > 1e-3
    assert np.allclose(predicted[1], predicted[2], atol=1e-5)


def test_folds_keep_their_last_epoch_whatever_it_scores(drawn, trained, tmp_path, monkeypatch):
    scores, real = iter([0.9, 0.1] * 2), metrics.score
    monkeypatch.setattr(
        metrics, "score", lambda *given: real(*given) | {"macro_f1": next(scores, 0.5)}
    )
    run = trained(drawn, tmp_path, "--folds", "2", "--epochs", "2")
    for fold in (run / "fold-0", run / "fold-1"):
        assert pd.read_csv(fold / "metrics.csv")["macro_f1"].tolist() == [0.9, 0.1]
        assert read_description(fold / "best.safetensors")["epoch"] == 2


def test_members_are_runs_of_their_own_seeds_and_are_averaged(drawn, trained, tmp_path, capsys):
    run = trained(drawn, tmp_path, "--members", "2", "--epochs", "1", "--seed", "7", name="both")
    assert "mean of 2 members" in capsys.readouterr().out
    assert sorted(path.name for path in run.glob("member-*")) == ["member-0", "member-1"]
    split = run / "split.csv"
    for number, seed in enumerate((7, 8)):
        flags = ("--epochs", "1", "--seed", str(seed), "--split", str(split))
        alone = load_file(trained(drawn, tmp_path, *flags, name=f"alone{seed}") / BEST)
        member = load_file(run / f"member-{number}" / BEST)
        assert all(torch.equal(alone[name], member[name]) for name in alone)
    table, log_probabilities = tables.read_predictions(run)
    parts = [tables.read_predictions(run / f"member-{number}") for number in (0, 1)]
    assert all(part["path"].equals(table["path"]) for part, _ in parts)
    mean = np.mean([np.exp(values) for _, values in parts], axis=0)
    assert np.allclose(np.exp(log_probabilities), mean, atol=2e-6)
    assert np.allclose(table["years"], np.mean([p["years"] for p, _ in parts], axis=0), atol=0.11)
    answered(drawn, tmp_path, tmp_path / "output", "--name", "both")
    sidecar = json.loads((tmp_path / "output" / "both.json").read_text())
    assert len(sidecar["files"]) == 2
    assert np.isclose(sidecar["macro_f1"], dataset_score(table), atol=1e-9)


def test_members_trained_on_everybody_have_no_score(drawn, trained, tmp_path, capsys):
    run = trained(drawn, tmp_path, "--members", "2", "--epochs", "1", "--val_ratio", "0")
    assert "macro-F1" not in capsys.readouterr().out.replace("offsets for macro-F1", "")
    assert not (run / "val_predictions.csv").exists()
    answered(drawn, tmp_path, tmp_path / "output")  # the latest run
    sidecar = json.loads((tmp_path / "output" / "a.json").read_text())
    assert len(sidecar["files"]) == 2 and sidecar.get("macro_f1") is None


def test_members_keep_their_last_epoch_whatever_it_scores(drawn, trained, tmp_path, monkeypatch):
    scores, real = iter([0.9, 0.1] * 2), metrics.score
    monkeypatch.setattr(
        metrics, "score", lambda *given: real(*given) | {"macro_f1": next(scores, 0.5)}
    )
    run = trained(drawn, tmp_path, "--members", "2", "--epochs", "2")
    for member in sorted(run.glob("member-*")):
        assert read_description(member / BEST)["epoch"] == 2


class Wandb:
    """As pytorch_lightning's logger: a new one goes on with a W&B run that is not finished."""

    seen, now = {}, None

    def __init__(self, name, group, id, resume, save_dir):
        assert resume == "allow"
        if Wandb.now is None:
            Wandb.now = Wandb.seen.setdefault(id, [name, group, []])
        self.experiment = self

    def finish(self):
        Wandb.now = None

    def log_metrics(self, _, step):
        Wandb.now[2].append(step)

    def log_image(self, *_, **__):
        pass


def test_each_fold_is_one_run_in_weights_and_biases_resumed_or_not(
    drawn, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger", Wandb)
    monkeypatch.setattr(settings, "find_spec", lambda name: name)
    flags = ("--logger", "wandb", "--epochs")
    trained(drawn, tmp_path, *flags, "2", "--folds", "2")
    trained(drawn, tmp_path, *flags, "1", name="b")
    trained(drawn, tmp_path, *flags, "3", "--resume", name="b")
    folds = [["a-fold-0", "a", [1, 2]], ["a-fold-1", "a", [1, 2]]]
    assert list(Wandb.seen.values()) == [*folds, ["b", None, [1, 2, 3]]]


def test_an_existing_run_is_left_alone(drawn, trained, tmp_path):
    first = trained(drawn, tmp_path, "--epochs", "1")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = trained(drawn, tmp_path, "--epochs", "1")
    assert (first.name, second.name) == ("a", "a-2")
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_same_seed_same_weights_for_any_number_of_workers(drawn, trained, tmp_path):
    flags = ("--epochs", "1", "--mixup", "0.5", "--drop", "0.2")
    one = trained(drawn, tmp_path, *flags, name="one")
    two = trained(drawn, tmp_path, *flags, "--workers", "2", name="two")
    other = trained(drawn, tmp_path, *flags, "--seed", "7", name="other")
    weights = [load_file(run / "best.safetensors")["head.age.weight"] for run in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_on_everybody_keeps_the_last_weights(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "2", "--val_ratio", "0")
    assert not (run / "val_predictions.csv").exists()
    last = torch.load(run / "last.ckpt", weights_only=True)["model"]
    assert all(
        torch.equal(tensor, last[name])
        for name, tensor in load_file(run / "best.safetensors").items()
    )


def test_config_repeats_a_run_and_flags_beat_it(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "1", "--lr", "0.002")
    args = settings.parse(["--config", str(run / "config.json"), "--epochs", "3"])
    assert (args.lr, args.epochs, args.model, args.resize) == (
        0.002,
        3,
        "test_efficientnet",
        [32, 24],
    )


# ----------------------------------------------------- wrong input: one line that says what to do


def broken(drawn, tmp_path, change):
    copy = tmp_path / "broken"
    shutil.copytree(drawn, copy)
    change(copy / "train")
    return copy


def photo_of(train_folder, which=5):
    return sorted(path for path in train_folder.rglob("mask1.*") if not path.name.startswith("."))[
        which
    ]


def drop_column(folder):
    table = pd.read_csv(folder / "train.csv", dtype=str)
    table.drop(columns="gender").to_csv(folder / "train.csv", index=False)


def truncate(folder):
    photo = photo_of(folder)
    content = photo.read_bytes()
    photo.write_bytes(content[: len(content) // 2])


def spoil_all(folder):
    for photo in folder.rglob("*.*"):
        if photo.suffix.lower() in IMAGE_EXTENSIONS:
            photo.write_bytes(b"no photo")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_column, ["train.csv", "gender"]),
        (
            lambda folder: shutil.rmtree(
                next(path for path in (folder / "images").iterdir() if path.is_dir())
            ),
            ["train.csv", "folders"],
        ),
        (
            lambda folder: (folder / "images" / "009999_male_Asian_40").mkdir(),
            ["train.csv", "009999_male_Asian_40"],
        ),
        (truncate, ["mask1", "truncated"]),
        (spoil_all, ["no photo can be read"]),
    ],
)
def test_data_that_cannot_be_used_is_named_before_training(drawn, trained, tmp_path, change, words):
    with pytest.raises(UserError) as error:
        trained(broken(drawn, tmp_path, change), tmp_path / "model")
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)
    assert not list((tmp_path / "model").glob("*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "no_such_net"], ["--model", "no_such_net"]),
        (["--criterion", "no_such_loss", "--pretrained", "gone"], ["--criterion", "cross_entropy"]),
        (["--optimizer", "none_such", "--pretrained", "gone"], ["--optimizer", "adamw"]),
        (["--augmentation", "no_such"], ["--augmentation", "winners"]),
        (["--val_ratio", "0.001"], ["--val_ratio"]),
        (["--pretrained", "no_such_file"], ["--pretrained", "no_such_file"]),
        (["--name", "../escape"], ["--name"]),
        (["--folds", "500"], ["--folds"]),
        (["--resume", "--name", "never_begun"], ["--resume", "never_begun"]),
        (["--batch_size", "1000000000"], ["--batch_size", "GB"]),
        (["--precision", "fp16", "--accelerator", "cpu"], ["--precision fp16", "bf16"]),
    ],
)
def test_a_wrong_flag_is_named(drawn, trained, tmp_path, flags, words):
    with pytest.raises(UserError) as error:
        trained(drawn, tmp_path, *flags)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_errors_end_with_status_2_and_one_line(drawn, trained, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SM_")}
    for command in (
        [ROOT / "train.py", "--data_dir", tmp_path / "missing"],
        [ROOT / "train.py", "--data_dir", drawn / "train", "--epochs", "0"],
        [
            ROOT / "inference.py",
            "--name",
            "missing",
            "--model_dir",
            tmp_path,
            "--data_dir",
            drawn / "eval",
        ],
        [
            ROOT / "inference.py",
            "--checkpoint",
            drawn / "train" / "train.csv",
            "--data_dir",
            drawn / "eval",
        ],
    ):
        done = script(*command, cwd=tmp_path, env=environment)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr, (
            done.stderr
        )


# -------------------------------------------------------------------------------------- inference


def test_a_bad_photo_never_loses_the_others(drawn, trained, tmp_path, capsys):
    model_dir = tmp_path / "model"
    trained(drawn, model_dir, "--epochs", "1")
    evaluation = tmp_path / "eval"
    shutil.copytree(drawn / "eval", evaluation)
    names = pd.read_csv(evaluation / "info.csv")["ImageID"]
    (evaluation / "images" / names[3]).write_bytes(b"")
    flags = [
        "--model_dir",
        str(model_dir),
        "--data_dir",
        str(evaluation),
        "--precision",
        "fp32",
        "--output_dir",
    ]
    with pytest.raises(UserError, match=names[3]):
        inference.main(inference.parse_args([*flags, str(tmp_path / "fail")]))
    assert not (tmp_path / "fail").exists()
    inference.main(
        inference.parse_args([*flags, str(tmp_path / "fallback"), "--on_error", "fallback"])
    )
    assert names[3] in capsys.readouterr().out
    inference.main(inference.parse_args([*flags, str(tmp_path / "skip"), "--on_error", "skip"]))
    assert list(submission.read_submission(tmp_path / "fallback" / "a.csv")["ImageID"]) == list(
        names
    )
    assert list(submission.read_submission(tmp_path / "skip" / "a.csv")["ImageID"]) == [
        name for name in names if name != names[3]
    ]


def test_batches_that_do_not_fit_in_memory_are_halved(
    drawn, trained, tmp_path, monkeypatch, capsys
):
    trained(drawn, tmp_path / "model", "--epochs", "1")
    answered(
        drawn, tmp_path / "model", tmp_path / "o", "--output_name", "roomy", "--batch_size", "2"
    )
    enough = MaskClassifier.log_probabilities

    def small(model, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return enough(model, images)

    monkeypatch.setattr(MaskClassifier, "log_probabilities", small)
    answered(
        drawn, tmp_path / "model", tmp_path / "o", "--output_name", "tight", "--batch_size", "8"
    )
    assert "going on with 2 photos" in capsys.readouterr().out
    assert (tmp_path / "o" / "tight.csv").read_text() == (tmp_path / "o" / "roomy.csv").read_text()


def test_a_plain_folder_of_images_is_answered_by_name(drawn, trained, tmp_path):
    trained(drawn, tmp_path / "model", "--epochs", "1")
    plain = tmp_path / "photos"
    shutil.copytree(drawn / "eval" / "images", plain)
    (plain / "._junk.jpg").write_bytes(b"junk")
    checkpoint = tmp_path / "model" / "a" / "best.safetensors"
    inference.main(
        inference.parse_args(
            [
                "--checkpoint",
                str(checkpoint),
                "--data_dir",
                str(plain),
                "--output_dir",
                str(tmp_path / "o"),
            ]
        )
    )
    expected = sorted(
        path.name
        for path in (drawn / "eval" / "images").iterdir()
        if not path.name.startswith(".") and path.suffix != ".db"
    )
    assert list(submission.read_submission(tmp_path / "o" / "best.csv")["ImageID"]) == expected


def test_a_model_of_real_photos_is_not_paired_silently_with_the_drawn_sample(
    drawn, trained, tmp_path, monkeypatch
):
    real = tmp_path / "real"
    shutil.copytree(
        drawn / "train", real / "train"
    )  # without the mark of a drawn set, these count as real
    trained(real, tmp_path / "model", "--epochs", "1")
    monkeypatch.chdir(drawn.parent)
    monkeypatch.delenv("SM_CHANNEL_EVAL", raising=False)
    with pytest.raises(UserError, match="sample set"):
        inference.main(
            inference.parse_args(
                ["--model_dir", str(tmp_path / "model"), "--output_dir", str(tmp_path / "o")]
            )
        )


def test_model_flag_is_checked_against_the_file(drawn, trained, tmp_path):
    trained(drawn, tmp_path / "model", "--epochs", "1")
    with pytest.raises(UserError, match="test_efficientnet"):
        answered(drawn, tmp_path / "model", tmp_path / "o", "--model", "resnet18")


def test_a_disk_that_is_too_small_is_told_before_training(drawn, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100_000)
    )
    with pytest.raises(UserError, match="MB of disk"):
        trained(drawn, tmp_path)


def test_two_processes_answer_as_one(drawn, trained, tmp_path):
    """35 photos over two processes, one padding: each predicted once, in info.csv's order."""
    trained(drawn, tmp_path, "--epochs", "1")
    common = [
        "--model_dir",
        tmp_path,
        "--data_dir",
        drawn / "eval",
        "--precision",
        "fp32",
        "--layout",
        "last",
        "--batch_size",
        "4",
    ]
    one = script(ROOT / "inference.py", *common, "--output_dir", tmp_path / "one")
    two = script(
        "-P",
        ROOT / "core" / "launch.py",
        "--standalone",
        "--nproc_per_node=2",
        ROOT / "inference.py",
        *common,
        "--accelerator",
        "cpu",
        "--devices",
        "2",
        "--output_dir",
        tmp_path / "two",
    )
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    (ids, expected), (other_ids, probabilities) = (
        submission.read_probabilities(tmp_path / name / "a.npz") for name in ("one", "two")
    )
    assert list(ids) == list(other_ids) == list(pd.read_csv(drawn / "eval" / "info.csv")["ImageID"])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert two.stdout.count("wrote") == 1


def test_sampling_is_told_before_and_after(drawn, trained, tmp_path, capsys):
    trained(drawn, tmp_path, "--epochs", "1", "--thin", "2", "--sampling", "balanced")
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("photos in an epoch")
    ]
    before, after = (
        np.array(
            [int(n.replace(",", "")) for n in line.split("mask ")[1].split(";")[0].split(" / ")]
        )
        for line in lines
    )
    assert (
        before[0] > 4 * before[1] and abs(after[0] - after[1]) <= 1 and after.sum() < before.sum()
    )
