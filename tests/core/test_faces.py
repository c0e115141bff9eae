"""The face detector that comes with the toolkit: every face, near and far, on synthetic people; and
what to cut out around one.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from core import faces
from core.errors import UserError
from core.faces import YUNET, FaceDetector, portrait
from preparation.sample import draw_photo, look_of, make_people


@pytest.fixture(scope="module")
def people():
    """Photos (256, 192, 3) of four people without masks."""
    return [
        draw_photo(look_of(person), 2, person.seed, (256, 192)) for person in make_people(4, 0, 0)
    ]


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


def contains(box, x: float, y: float) -> bool:
    left, top, width, height = box[:4]
    return left < x < left + width and top < y < top + height


def test_every_face_of_a_picture_is_found_the_largest_first(people, detector):
    picture = np.full((480, 640, 3), 128, np.uint8)
    places = [(20, 20, 1.0), (230, 150, 0.8), (420, 40, 0.6), (540, 300, 0.45)]
    for photo, (x, y, scale) in zip(people, places, strict=True):
        small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        picture[y : y + small.shape[0], x : x + small.shape[1]] = small
    found = detector(picture)
    assert found.shape == (4, 5) and (np.diff(found[:, 2] * found[:, 3]) <= 0).all()
    for x, y, scale in places:
        assert sum(contains(face, x + 96 * scale, y + 140 * scale) for face in found) == 1


@pytest.mark.parametrize("height", [160, 640, 2560])
def test_a_face_is_found_at_any_size_of_the_photo(people, detector, height):
    scale = height / 256
    for photo in people[:2]:
        found = detector(cv2.resize(photo, None, fx=scale, fy=scale))
        assert len(found) == 1 and contains(found[0], 96 * scale, 140 * scale)


def test_no_face_is_an_empty_table(detector, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    assert detector(noise).shape == (0, 5)
    assert detector(np.zeros((1, 9, 3), np.uint8)).shape == (0, 5)
    assert capfd.readouterr().err == ""  # OpenCV has warned about its own engine for each photo


def test_one_detector_serves_several_threads(people, detector):
    photos = [cv2.resize(photo, (150 + 40 * n, 200 + 50 * n)) for n, photo in enumerate(people)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detector, photos))
    for one, other in zip(found, map(detector, photos), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_version_is_used_with_a_warning_and_anything_else_refused(people, tmp_path, capsys):
    other = onnx.load(YUNET)
    other.doc_string = "another version"
    onnx.save(other, tmp_path / "yunet.onnx")
    assert len(FaceDetector(tmp_path / "yunet.onnx")(people[0])) == 1
    assert "not the version of YuNet that was tested" in capsys.readouterr().err
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(UserError, match="OpenCV cannot run it"):
        FaceDetector(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="does not exist; leave it out"):
        FaceDetector(Path("gone.onnx"))


def test_the_shipped_file_is_the_published_one(capsys):
    FaceDetector()
    assert capsys.readouterr().err == "" and Path(faces.YUNET).stat().st_size == 232_589


@pytest.mark.parametrize(
    "face",
    [(0, 0, 10, 10), (290, 190, 30, 30), (0, 0, 300, 200), (-20, -20, 60, 60), (100, 100, 1, 1)],
)
def test_a_box_stays_in_the_photo(face):
    left, top, right, bottom = portrait(face, 0.6, 300, 200)
    assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
