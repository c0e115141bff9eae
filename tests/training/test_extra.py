"""--extra: training on more photos, of which only some labels are known."""

import json
from argparse import Namespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dataset
from core import extra_photos, metrics
from core.errors import UserError
from core.framing import Framing
from core.labels import OFFICIAL_BANDS, decode
from loss import create_criterion
from model import YEARS, YearsHead
from prediction import Predictor
from prediction.model_file import read_description
from prediction.runs import run_files
from training import settings
from training.step import Blend, total_loss
from training.targets import targets_of

ARGS = Namespace(attribute=None, years_weight=1.0, years_sigma=3.0)


@pytest.fixture
def extra(drawn, tmp_path):
    """extra(known attributes) -> a list of all photos to predict, with those labels alone."""

    def make(*attributes):
        frame = dataset.read_eval(drawn / "eval")[["path"]]
        values = {"mask": "wear", "gender": "female", "age": "60+"}
        frame = frame.assign(**{name: values[name] for name in attributes})
        frame.to_csv(tmp_path / "extra.csv", index=False)
        return tmp_path / "extra.csv"

    return make


def table(*rows):
    return pd.DataFrame(rows, columns=extra_photos.COLUMNS)


def people(ages=(25, 60)):
    return pd.DataFrame({"mask": 0, "gender": 1, "age": list(ages)})


def test_labels_that_are_known_are_the_same_targets_from_either_list():
    frame, known = people(), table(("a", 0, 1, 25, 25), ("b", 0, 1, 60, 120))
    alone = targets_of(frame, extra_photos.no_extra(), OFFICIAL_BANDS, "cpu")
    both = targets_of(frame, known, OFFICIAL_BANDS, "cpu")
    assert alone.classes.tolist() == [3, 5]
    assert both.classes.float().argmax(1).tolist() == [3, 5, 3, 5]
    assert both.classes.sum(1).tolist() == [1] * 4
    for name in ("youngest", "oldest"):
        assert getattr(both, name).tolist() == 2 * getattr(alone, name).tolist()
    assert (alone.youngest.tolist(), alone.oldest.tolist()) == ([25, 60], [25, YEARS - 1])


def test_the_highest_age_is_censored_among_the_people_alone():
    targets = targets_of(people(), table(("a", 0, 1, 60, 60), ("b", 0, 1, 71, 71)), (30, 60), "cpu")
    assert targets.oldest.tolist() == [25, YEARS - 1, 60, 71]


@pytest.mark.parametrize("criterion", ["cross_entropy", "focal", "f1", "cross_entropy_f1"])
@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_unknown_teaches_nothing(criterion, mixed):
    torch.manual_seed(0)
    head, loss = YearsHead(8), create_criterion(criterion, smoothing=0)
    extra = table(("a", -1, 1, 0, 120), ("b", -1, 0, 0, 120))
    targets = targets_of(people(), extra, OFFICIAL_BANDS, "cpu")[torch.tensor([2, 3])]
    blend = Blend(torch.tensor([1, 0]), 0.7) if mixed else None
    total_loss(head(torch.randn(2, 8), return_years=True), targets, blend, loss, ARGS).backward()
    gradients = {name: layer.weight.grad.norm() for name, layer in head.named_children()}
    assert gradients["gender"] > 1e-3
    if criterion == "cross_entropy":  # the others weigh classes by how well they are known
        assert max(gradients["mask"], gradients["age"]) < 1e-6


def test_photos_of_known_gender_teach_the_gender(drawn, trained, extra, tmp_path, capsys):
    """The only women of this training are in the list."""
    flags = ("--epochs", "6", "--lr", "0.01", "--optimizer", "AdamW", "--val_ratio", "0")
    flags += ("--augmentation", "none", "--offsets", "no", "--drop", "0", "--clip", "0")
    frame = dataset.read_train(drawn / "train")
    men = tmp_path / "men" / "images"
    for person in frame["person"][frame["gender"] == 0].unique()[:6]:
        (men / person).mkdir(parents=True)
        for path in frame["path"][frame["person"] == person]:
            (men / person / path.rsplit("/", 1)[-1]).symlink_to(path)
    shares, paths = {}, dataset.read_eval(drawn / "eval")["path"]
    for name, more in (("without", ()), ("with", ("--extra", str(extra("gender"))))):
        run = trained(drawn, tmp_path, *flags, "--data_dir", men.parent, *more, name=name)
        probabilities = Predictor(run).probabilities(paths)
        shares[name] = probabilities.reshape(-1, 3, 2, 3).sum((1, 3))[:, 1].mean()
    assert shares["with"] > shares["without"] + 0.3
    assert "known: mask of 0, gender of 42, age of 0" in capsys.readouterr().out


def test_they_are_in_every_fold_and_never_validated(drawn, trained, extra, tmp_path, capsys):
    listed = extra("gender", "age")
    run = trained(drawn, tmp_path, "--epochs", "1", "--folds", "2", "--extra", listed)
    said = capsys.readouterr().out
    frame = dataset.read_train(drawn / "train")
    for fold in ("fold-0", "fold-1"):
        held_out = len(pd.read_csv(run / fold / "val_predictions.csv"))
        count = len(frame) - held_out + len(pd.read_csv(listed))
        assert f"{count} photos to train on, {held_out} to validate on" in said
    assert len(pd.read_csv(run / "val_predictions.csv")) == len(frame)


def test_offsets_count_what_is_known(drawn, trained, extra, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "1", "--val_ratio", "0", "--extra", extra("age"))
    mask, gender, band = decode(dataset.read_train(drawn / "train")["label"].to_numpy())
    more = len(pd.read_csv(extra("age")))
    unknown = np.full(more, -1)
    expected = metrics.frequency_offsets(
        [
            np.concatenate([mask, unknown]),
            np.concatenate([gender, unknown]),
            np.concatenate([band, np.full(more, 2)]),
        ]
    )
    offsets = load_file(run / "best.safetensors")["offsets"].numpy()
    assert np.allclose(offsets, expected, atol=1e-6)


def test_how_faces_stand_in_the_photos_is_kept_and_another_way_of_extra_photos_is_told(
    drawn, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "core.faces.FaceDetector.__call__",
        lambda _, photo: np.array([[0, 0, 9, photo.shape[0] / 2, 0.9]]),
    )
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    (tmp_path / "list.csv").write_text("path,gender\nsquare.png,male\n")
    flags = ("--epochs", "1", "--val_ratio", "0", "--extra", tmp_path / "list.csv")
    run = trained(drawn, tmp_path, *flags, "--members", "2")
    for member in run_files(run):
        assert read_description(member)["framing"] == [0.75, 0.5]
    assert Predictor(run).framing() == Framing(0.75, 0.5)
    said = capsys.readouterr().out
    framing = "framing: the photos are 0.75 times as wide as high, faces fill 50% of the height"
    assert said.count(framing) == 1  # looked at once for all members
    assert said.count("warning: the photos of --extra are 1.00 times as wide as high") == 1


def test_a_run_is_resumed_with_the_same_list_alone(drawn, trained, extra, tmp_path):
    flags = ("--epochs", "1", "--val_ratio", "0")
    run = trained(drawn, tmp_path, *flags, "--extra", extra("gender"))
    assert json.loads((run / "config.json").read_text())["data"]["extra"]
    more = ("--epochs", "2", "--val_ratio", "0", "--resume")
    for changed in ((), ("--extra", extra("age"))):
        with pytest.raises(UserError, match="other photos or labels in the list of --extra"):
            trained(drawn, tmp_path, *more, *changed)
    moved = extra("gender").rename(tmp_path / "moved.csv")
    trained(drawn, tmp_path, *more, "--extra", moved)
    assert len(pd.read_csv(run / "metrics.csv")) == 2


def test_an_extra_photo_that_cannot_be_read_is_named_or_left_out(
    drawn, trained, extra, tmp_path, capsys
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    listed = extra("gender")
    listed.write_text(listed.read_text() + f"{broken},male\n")
    flags = ("--epochs", "1", "--val_ratio", "0", "--extra", listed)
    with pytest.raises(UserError, match=r"1 of 209 photos cannot be used: .*broken\.jpg"):
        trained(drawn, tmp_path, *flags)
    trained(drawn, tmp_path, *flags, "--on_error", "skip")
    said = capsys.readouterr().out
    assert "left out 1 of 209 photos" in said and "208 photos to train on" in said


def test_it_goes_with_every_photo_once_alone(training_flags, drawn, tmp_path):
    flags = training_flags(drawn, tmp_path, "--extra", "a.csv", "--sampling", "weighted")
    with pytest.raises(UserError, match="--sampling shuffle"):
        settings.parse(flags)
