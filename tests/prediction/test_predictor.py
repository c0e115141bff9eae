"""One path: the same probabilities for every form of photos and every kind of model file."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core import device
from core.errors import UserError
from core.photo import PhotoError
from model import MaskClassifier
from prediction import Predictor, torch_model
from prediction.export import export_onnx
from prediction.model_file import save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of random weights, folds of one run, and the ONNX file of their average."""
    run = tmp_path_factory.mktemp("models") / "run"
    files = [run / f"fold-{fold}" / "best.safetensors" for fold in range(2)]
    for file, head in zip(files, ("years", "joint"), strict=True):
        more = {"crop": [448, 336], "bands": [30, 60], "macro_f1": None, "drawn": False}
        model = MaskClassifier("test_efficientnet", head, (32, 24), **more)
        model.offsets.copy_(torch.linspace(0, 1, 18))
        save_model(model, file)
    export_onnx(files, run / "model.onnx")
    return run


def test_paths_images_arrays_and_onnx_give_the_same_probabilities(models, photos):
    paths = photos(5, (64, 48))
    predictor = Predictor(models, precision="fp32")
    expected = predictor.probabilities(paths)
    mixed = [paths[0], Image.open(paths[1]), *(np.asarray(Image.open(path)) for path in paths[2:])]
    one_by_one = np.concatenate([predictor.probabilities([photo]) for photo in mixed])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)
    of_onnx = Predictor(models / "model.onnx", batch_size=2).probabilities(mixed)
    np.testing.assert_allclose(of_onnx, expected, atol=1e-5)
    folds = sorted(models.glob("fold-*/*.safetensors"))
    each = [Predictor(fold, precision="fp32").probabilities(paths) for fold in folds]
    np.testing.assert_allclose(np.mean(each, axis=0), expected, atol=1e-6)
    without = Predictor(models, precision="fp32", offsets=False).probabilities(paths)
    assert np.abs(without - expected).max() > 1e-3


def test_nothing_is_timed_for_a_few_photos(models, photos, monkeypatch):
    timed = []
    monkeypatch.setattr(device, "_seconds", lambda *arguments: timed.append(arguments) or 1)
    file = models / "fold-0" / "best.safetensors"
    Predictor(file).predict(photos(4, (64, 48)))
    assert not timed
    monkeypatch.setattr(torch_model, "FEW", 4)
    Predictor(file).predict(photos(4, (64, 48)))
    assert timed


def test_a_frame_names_class_words_and_probabilities(models, photos):
    paths = photos(3, (64, 48))
    paths[1].write_bytes(b"no photo")
    predictor = Predictor(models)
    with pytest.raises(PhotoError, match="photo1"):
        predictor.predict(paths)
    frame = predictor.predict(paths, on_error="skip")
    assert list(frame.index) == [0, 2]
    shares = frame[[f"p{label}" for label in range(18)]]
    assert (shares.to_numpy().argmax(axis=1) == frame["class"]).all()
    words = ("mask worn", "mask worn incorrectly", "no mask")
    assert [words[label // 6] for label in frame["class"]] == list(frame["mask"])
    np.testing.assert_allclose(frame["p_60_and_over"], shares.iloc[:, 2::3].sum(axis=1), rtol=1e-5)
    assert predictor.predict([]).empty


@pytest.mark.parametrize(
    "photo",
    ["a.jpg", np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), None, b"\xff", torch.zeros(1)],
)
def test_what_is_no_list_of_photos_is_told(models, photo):
    with pytest.raises(TypeError, match="photos") as error:
        Predictor(models).predict(photo if isinstance(photo, str) else [photo])
    assert len(str(error.value)) < 150


def test_photos_come_in_any_iterable_and_from_open_files(models, photos):
    paths, predictor = photos(3, (64, 48)), Predictor(models)
    expected = predictor.probabilities(paths)
    for other in (
        iter(paths),
        pd.Series(paths, index=[7, 8, 9]),
        [io.BytesIO(path.read_bytes()) for path in paths],
    ):
        np.testing.assert_array_equal(predictor.probabilities(other), expected)


@pytest.mark.parametrize(
    "option", [{"precision": "int4"}, {"layout": "x"}, {"tta": "flip"}, {"tta": ["a"]}]
)
def test_an_option_that_there_is_not_is_told(models, option):
    with pytest.raises(UserError, match=f"{next(iter(option))} .*: give "):
        Predictor(models, **option)
