"""A submission for a folder: its name, its photos, the flags, and what a killed job leaves."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

import inference
from core.errors import UserError
from core.folders import ROOT
from core.framing import Framing
from model import MaskClassifier
from prediction import Predictor, submission
from prediction.export import export_onnx
from prediction.journal import Journal
from prediction.model_file import save_model
from preparation.sample import draw_photo, look_of, make_people

FRAMING = Framing(0.75, 0.61)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run of two folds with random weights, and the ONNX file of their average."""
    run = tmp_path_factory.mktemp("models") / "run"
    for fold, head in enumerate(("years", "joint")):
        torch.manual_seed(fold)
        more = {"crop": None, "bands": [30, 60], "macro_f1": None, "drawn": False, "tta": []}
        more["framing"] = [FRAMING.shape, FRAMING.fill]
        model = MaskClassifier("test_efficientnet", head, (32, 24), std=[0.02] * 3, **more)
        with (
            torch.no_grad()
        ):  # with std: predictions depend on the photo, though weights are random
            for weights in model.head.parameters():
                weights.mul_(30)
            model.offsets.copy_(torch.linspace(0, 3, 18).flip(0))
        save_model(model, run / f"fold-{fold}" / "best.safetensors")
    (run / "config.json").write_text("{}")
    export_onnx(sorted(run.glob("*/*.safetensors")), run / "run.onnx")
    return run


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """A folder of twelve synthetic portraits, 96 x 128, a.png to l.png."""
    folder = tmp_path_factory.mktemp("photos")
    for person, letter in zip(make_people(12, 0, 0), "abcdefghijkl", strict=True):
        pixels = draw_photo(look_of(person), 2, person.seed, (128, 96))
        Image.fromarray(pixels).save(folder / f"{letter}.png")
    return folder


def flags_of(models, photos, output, *more):
    """The arguments that predict a folder with the run."""
    folders = ["--data_dir", photos, "--output_dir", output, "--model_dir", models.parent]
    precision = [] if "--precision" in more else ["--precision", "fp32"]
    return list(map(str, [*folders, *precision, *more]))


def predict(models, photos, output, *more):
    run = [] if "--checkpoint" in more else ["--name", "run"]
    args = inference.parse_args(flags_of(models, photos, output, *run, *more))
    return inference.main(args)


def contents(folder):
    """The bytes of the files that a submission consists of; NAME.json names its own folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}


def test_photos_that_show_faces_otherwise_than_those_trained_on_are_told(
    models, portraits, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("core.faces.FaceDetector.__call__", lambda _, photo: whole_face(photo))
    predict(models, portraits, tmp_path / "out")
    assert "warning: these photos are" not in capsys.readouterr().out
    for path in portraits.iterdir():
        with Image.open(path) as photo:
            wide = ImageOps.pad(photo.convert("RGB"), (240, 128))
        wide.save(tmp_path / path.name)
    predict(models, tmp_path, tmp_path / "out")
    assert "these photos are 1.88 times as wide as high, faces fill 61%" in capsys.readouterr().out
    predict(models, tmp_path, tmp_path / "out", "--crop_faces")
    assert "warning: these photos are" not in capsys.readouterr().out


def whole_face(photo):
    height, width, _ = photo.shape
    return np.array([[width / 4, height / 5, width / 2, 0.61 * height, 0.9]])


# ---------------------------------------------------------------------------- interrupted jobs

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from prediction.journal import Journal
add, blocks = Journal.add, []

def add_and_die(journal, model, rows):
    add(journal, model, rows)
    blocks.append(model)
    if model == 1:
        with journal.file(1).open("ab") as stream:
            stream.write(b"half a row")
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = add_and_die
import inference
inference.main(inference.parse_args())
"""


def test_a_killed_job_goes_on_to_the_same_files(models, portraits, tmp_path, monkeypatch):
    """Killed in its second model, with a loader worker; what was done is not done again."""
    flags = ("--batch_size", 1, "--workers", 1, "--layout", "auto")
    (portraits / "m.png").write_bytes(b"no photo")
    try:
        more = (*flags, "--on_error", "fallback")
        predict(models, portraits, tmp_path / "whole", *more)
        command = flags_of(models, portraits, tmp_path / "killed", "--name", "run", *more)
        killed = subprocess.run([sys.executable, "-c", KILLED, ROOT, *command], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert [path.name for path in (tmp_path / "killed").iterdir()] == ["run.csv.unfinished"]
        predicted = []
        monkeypatch.setattr(
            Journal, "add", lambda *added, add=Journal.add: (add(*added), predicted.append(added))
        )
        predict(models, portraits, tmp_path / "killed", *more, "--resume")
    finally:
        (portraits / "m.png").unlink()
    assert sum(len(rows) for _, _, rows in predicted) == 13 - 4  # a block of four was done
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_was_begun_is_of_the_same_job_or_not_resumed(models, portraits, tmp_path, capsys):
    def stop(journal, model, rows, add=Journal.add):
        add(journal, model, rows)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "add", stop)
        predict(models, portraits, tmp_path)
    with pytest.raises(UserError, match="other --tta and --batch_size"):
        predict(models, portraits, tmp_path, "--resume", "--batch_size", "5", "--tta", "flip")
    predict(models, portraits, tmp_path)
    assert "an unfinished job, begun anew" in capsys.readouterr().out
    predict(models, portraits, tmp_path, "--resume")
    assert "run.csv is finished already" in capsys.readouterr().out
    assert not (tmp_path / "run-2.csv").exists()


def test_two_processes_do_not_write_one_submission(tmp_path):
    journal = Journal(tmp_path / "a", {}, resume=False)
    other = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    other += "from prediction.journal import Journal\n"
    other += f"Journal(Path({str(journal.folder)!r}), {{}}, True)"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert "another process is at work" in done.stderr


# ---------------------------------------------------------------------------- names and photos


def test_the_name_of_a_submission_may_end_in_csv_and_a_checkpoint_names_the_model(
    models, portraits, tmp_path
):
    predict(models, portraits, tmp_path, "--output_name", "a.csv")
    assert "a.csv" in contents(tmp_path)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"for --resume; the model is best\.safetensors"):
        predict(models, portraits, tmp_path, "--checkpoint", checkpoint)


def test_a_name_that_is_taken_gets_a_number_unless_it_may_be_replaced(models, portraits, tmp_path):
    for _ in range(3):
        predict(models, portraits, tmp_path, "--tta")
    first = contents(tmp_path)
    assert {"run.csv", "run-2.csv", "run-3.csv", "run-3-predictions.csv"} < set(first)
    predict(models, portraits, tmp_path, "--overwrite", "--offsets", "no")
    changed = {name for name, content in contents(tmp_path).items() if content != first.get(name)}
    assert changed == {"run.csv", "run.npz", "run-predictions.csv"}


def test_a_folder_that_cannot_be_written_is_told_before_the_work(models, portraits, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/o: cannot be written to .*another folder"):
        predict(models, portraits, tmp_path / "file" / "o")


def test_photos_in_subfolders_are_counted_or_taken(models, portraits, tmp_path, capsys):
    for name in ("one/a.png", "two/a.png", "two/deep/b.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(portraits / "a.png", tmp_path / "photos" / name)
    (tmp_path / "photos" / "two" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no photos; .*subfolders .*--recursive reads \(2"):
        predict(models, tmp_path / "photos", tmp_path / "o")
    predict(models, tmp_path / "photos", tmp_path / "o", "--recursive")
    assert "left out files that are not photos" in capsys.readouterr().out
    frame = submission.read_submission(tmp_path / "o" / "run.csv")
    assert list(frame["ImageID"]) == ["one/a.png", "two/a.png", "two/deep/b.png"]
    args = ["--checkpoint", str(models / "run.onnx"), str(tmp_path / "photos"), "--recursive"]
    assert inference.main(inference.parse_args(args)) == 0
    assert capsys.readouterr().out.count("a.png") == 2


# ---------------------------------------------------------------------------- one path


def test_scores_that_overflow_in_half_precision_are_predicted_in_fp32(
    models, portraits, tmp_path, monkeypatch
):
    predict(models, portraits, tmp_path / "right")
    real = MaskClassifier._with_offsets

    def overflowing(self, scores):
        lost = torch.is_autocast_enabled("cpu")
        return torch.full_like(scores, torch.nan) if lost else real(self, scores)

    monkeypatch.setattr(MaskClassifier, "_with_offsets", overflowing)
    predict(models, portraits, tmp_path / "out", "--precision", "bf16")
    assert contents(tmp_path / "out") == contents(tmp_path / "right")


def test_an_onnx_file_writes_the_same_submission(models, portraits, tmp_path):
    predict(models, portraits, tmp_path)
    predict(models, portraits, tmp_path, "--checkpoint", models / "run.onnx", "--output_name", "o")
    ids, expected = submission.read_probabilities(tmp_path / "run.npz")
    assert ids.tolist() == [f"{letter}.png" for letter in "abcdefghijkl"]
    np.testing.assert_allclose(
        submission.read_probabilities(tmp_path / "o.npz")[1], expected, atol=1e-5
    )
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "run.csv").read_bytes()


def test_eight_bits_are_calibrated_on_a_folder_of_people(models, portraits, tmp_path, capsys):
    for photo in portraits.iterdir():
        folder = tmp_path / "images" / f"{photo.stem}_male_Asian_20"
        folder.mkdir(parents=True)
        (folder / "mask1.png").write_bytes(photo.read_bytes())
    (tmp_path / "images" / "train.csv").write_text("id,gender,race,age,path\n")
    small = tmp_path / "small.onnx"
    flags = ["--checkpoint", str(models / "run.onnx"), "--export", str(small), "--int8"]
    inference.main(inference.parse_args([*flags, str(tmp_path / "images")]))
    said, warned = capsys.readouterr()
    assert "left out" not in said + warned
    assert said.count("wrote") == 1 and "of the 12 photos get the same class" in said
    assert small.stat().st_size < 0.8 * (models / "run.onnx").stat().st_size
    for name, file in (("whole", models / "run.onnx"), ("small", small)):
        predict(models, portraits, tmp_path, "--checkpoint", file, "--output_name", name)
    whole, small = (pd.read_csv(tmp_path / f"{name}.csv")["ans"] for name in ("whole", "small"))
    assert (whole == small).sum() >= 6  # by chance 1 would be the same


def test_single_photos_obey_the_flags_of_a_folder(models, portraits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("core.faces.FaceDetector.__call__", lambda *_: np.zeros((0, 5)))
    said = {}
    for flags in ((), ("--tta", "flip", "scales"), ("--offsets", "no"), ("--crop_faces",)):
        predict(models, portraits, tmp_path, "--overwrite", *flags)
        capsys.readouterr()
        args = flags_of(models, portraits, tmp_path, "--name", "run", *flags)
        photos = sorted(map(str, portraits.iterdir()))
        assert inference.main(inference.parse_args([*photos, *args])) == 0
        lines = capsys.readouterr().out.splitlines()
        frame = pd.read_csv(tmp_path / "run-predictions.csv")
        for line, row in zip(lines, frame.itertuples(), strict=True):
            mask = {"mask worn": row.p_mask_worn, "no mask": row.p_no_mask}
            share = mask.get(row.mask, row.p_mask_worn_incorrectly)
            assert f"{row.mask} " in line and row.gender in line and row.age in line
            assert abs(int(line.split("%")[0].split()[-1]) - 100 * share) < 0.51
        said[flags] = tuple(lines)
    assert len(set(said.values())) == 4  # each flag changes what is predicted


def test_faces_are_cropped_as_prepare_crop_does(models, portraits, tmp_path):
    from preparation.images import face_cropper

    predict(models, portraits, tmp_path, "--crop_faces")
    crop = face_cropper(None, FRAMING.margin)
    crops = [crop(Image.open(path))[0] for path in sorted(portraits.iterdir())]
    expected = Predictor(models, precision="fp32").probabilities(crops)
    np.testing.assert_allclose(
        submission.read_probabilities(tmp_path / "run.npz")[1], expected, atol=1e-6
    )
    paths = sorted(portraits.iterdir())
    photos = [paths[0], Image.open(paths[1]), np.array(Image.open(paths[2])), *paths[3:]]
    cropped = Predictor(models, precision="fp32").probabilities(photos, crop_faces=True)
    np.testing.assert_allclose(cropped, expected, atol=1e-6)


def test_an_exported_model_knows_how_faces_stand_in_its_training_photos(models):
    assert Predictor(models / "run.onnx").known_framing == FRAMING
