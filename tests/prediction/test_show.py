"""Answers in words: from a model file and from ONNX the same, on screen and on a picture."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

import inference
from core.errors import UserError
from core.folders import ROOT
from model import MaskClassifier
from prediction import Predictor, show
from prediction.export import export_onnx, joined
from prediction.model_file import save_model
from prediction.words import words

NO_TORCH = (
    "import sys; sys.modules['torch'] = sys.modules['pandas'] = sys.modules['timm'] = None; "
    "sys.argv = sys.argv[1:]; "
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of random weights and the ONNX file of their average."""
    folder = tmp_path_factory.mktemp("models")
    files = [folder / "a.safetensors", folder / "b.safetensors"]
    for file, head in zip(files, ("years", "joint"), strict=True):
        save_model(
            MaskClassifier(
                "test_efficientnet",
                head,
                (32, 24),
                crop=[448, 336],
                bands=[30, 60],
                macro_f1=None,
                drawn=False,
            ),
            file,
        )
    export_onnx(files, folder / "model.onnx")
    return files, folder / "model.onnx"


def test_words_name_the_best_class_with_the_share_of_each_attribute():
    probabilities = np.full(18, 0.02)
    probabilities[1 * 6 + 1 * 3 + 2] = 1 - 17 * 0.02
    said = words(probabilities)
    assert [word for word, _ in said] == ["mask worn incorrectly", "female", "60 and over"]
    np.testing.assert_allclose(
        [p for _, p in said], [0.66 + 5 * 0.02, 0.66 + 8 * 0.02, 0.66 + 5 * 0.02]
    )


def test_an_onnx_file_needs_no_pytorch(models, photos, tmp_path):
    """Without torch, timm and pandas the command prints what it prints with them."""
    paths = photos(2, (64, 48))
    code = (
        NO_TORCH
        + f"import runpy; sys.path.insert(0, {str(ROOT)!r}); "
        + "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [ROOT / "inference.py", "--checkpoint", models[1], *paths]
    without = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert without.returncode == 0, without.stderr
    lines = without.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(path) for path in paths]
    with_torch = subprocess.run(
        [sys.executable, ROOT / "inference.py", "--checkpoint", *models[0], *paths],
        capture_output=True,
        text=True,
    )
    assert with_torch.stdout == without.stdout


def test_pictures_carry_the_answer_below_the_photo(models, photos, tmp_path, capsys):
    paths = photos(2, (64, 48))
    paths[1].write_bytes(b"no photo")
    args = inference.parse_args(
        ["--draw", str(tmp_path / "out"), "--checkpoint", str(models[1]), str(paths[0].parent)]
    )
    assert inference.main(args) == 1
    assert "cannot be predicted: not an image" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "photo0.png") as drawn, Image.open(paths[0]) as stored:
        top = np.asarray(drawn)[:320]
        np.testing.assert_array_equal(top, np.asarray(stored.convert("RGB").resize((240, 320))))
        assert drawn.height > 320 and len(np.unique(np.asarray(drawn)[320:])) > 10
    assert not (tmp_path / "out" / "photo1.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (4, 200), (700, 5), (2000, 1500)])
def test_pictures_of_photos_of_any_shape_fit_a_screen(tmp_path, size):
    Image.new("RGB", size[::-1], "red").save(tmp_path / "in.png")
    show.draw(
        tmp_path / "in.png",
        [(None, [("mask worn", 0.9), ("male", 0.8), ("under 30", 0.7)])],
        tmp_path / "out.png",
    )
    with Image.open(tmp_path / "out.png") as drawn:
        assert (
            240 <= drawn.width <= 800
            and drawn.height <= 1050
            and (255, 0, 0) in drawn.get_flattened_data()
        )


def test_korean_names_leave_the_answers_in_line():
    assert (
        show.columns("a.jpg") == 5
        and show.columns("홍길.jpg") == show.columns(unicodedata.normalize("NFD", "홍길.jpg")) == 8
    )


def test_photos_of_one_name_in_two_folders_get_two_pictures(models, photos, tmp_path):
    (first,) = photos(1)
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / first.name
    second.write_bytes(first.read_bytes())
    args = inference.parse_args(
        [str(first), str(second), "--draw", str(tmp_path / "out"), "--checkpoint", str(models[1])]
    )
    assert inference.main(args) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "photo0-2.png",
        "photo0.png",
    ]


def test_pictures_replace_neither_photos_nor_other_files(models, photos, capsys):
    (photo,) = photos(1)
    before = photo.read_bytes()
    command = [str(photo), "--draw", str(photo.parent), "--checkpoint", str(models[1])]
    for more in ([], [], ["--overwrite"]):
        assert inference.main(inference.parse_args([*command, *more])) == 0
    said = capsys.readouterr().out
    assert "the first is photo0-2.png" in said and "the first is photo0-3.png" in said
    assert photo.read_bytes() == before
    assert {path.name for path in photo.parent.iterdir()} >= {"photo0-2.png", "photo0-3.png"}
    assert not (photo.parent / "photo0-4.png").exists()


def test_an_export_replaces_a_file_only_if_it_may_and_never_the_model(models, tmp_path):
    output = tmp_path / "a.onnx"
    output.write_bytes(b"before")
    command = ["--checkpoint", str(models[0][0]), "--export", str(output)]
    with pytest.raises(UserError, match="exists; give another name"):
        inference.main(inference.parse_args(command))
    assert output.read_bytes() == b"before"
    inference.main(inference.parse_args([*command, "--overwrite"]))
    assert output.read_bytes() != b"before"
    command = ["--checkpoint", str(output), "--export", str(output), "--overwrite"]
    with pytest.raises(UserError, match="is the model itself"):
        inference.main(inference.parse_args(command))


def test_photos_after_flags_that_take_many_are_photos():
    args = inference.parse_args(["--name", "a", "b", "face.JPG", "x.png"])
    assert (args.name, args.photos) == (["a", "b"], ["face.JPG", "x.png"])


@pytest.mark.parametrize("content", [b"", b"onnx", b"\x08\x07"])
def test_what_is_no_onnx_file_of_ours_is_told(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match="not an ONNX file that"):
        Predictor(tmp_path / "a.onnx")


def test_models_of_different_size_are_not_averaged(models, tmp_path):
    other = tmp_path / "other.safetensors"
    save_model(
        MaskClassifier(
            "test_efficientnet",
            "joint",
            (48, 36),
            crop=[448, 336],
            bands=[30, 60],
            macro_f1=None,
            drawn=False,
        ),
        other,
    )
    with pytest.raises(UserError, match="another size"):
        joined([models[0][0], other])


@pytest.mark.parametrize(
    ("paths", "words"), [(["gone.jpg"], "does not exist"), (["."], "holds no photos")]
)
def test_photos_that_are_not_there_are_named(tmp_path, monkeypatch, paths, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        show.photos_in(paths)


def test_a_folder_after_the_names_is_photos_unless_it_is_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("sample/eval/images", "model/sample"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model" / "sample" / "best.safetensors").touch()
    for photos in ("sample/eval/images", str(tmp_path / "sample")):
        args = inference.parse_args(["--name", "sample", photos])
        assert (args.name, args.photos) == (["sample"], [photos])
        args = inference.parse_args(["--checkpoint", "model/sample", photos])
        assert (args.checkpoint, args.photos) == (["model/sample"], [photos])
