"""How faces stand in photos: the shape by the header, the size of the face by the detector."""

import numpy as np
import pytest
from PIL import Image

from core.framing import Framing, framing_of


def half(photo):
    """A detector that finds a face of half the photo's height."""
    return np.array([[0, 0, 9, photo.shape[0] / 2, 0.9]])


def test_the_framing_is_the_median_of_upright_photos_that_can_be_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (3, 4)).save(tmp_path / "b.png")
    Image.new("RGB", (4000, 2000)).save(tmp_path / "c.jpg")
    (tmp_path / "d.jpg").write_bytes(b"no photo")
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg", "d.jpg", "missing.jpg")]
    assert framing_of(paths, half) == Framing(0.75, 0.5)
    assert framing_of(paths[2:], half) == Framing(2.0, 0.5)
    assert framing_of(paths[3:], half) is None
    assert framing_of([], half) is None
    assert framing_of(paths, lambda _: np.zeros((0, 5))) is None


def test_some_photos_of_many_are_looked_at_from_the_first_to_the_last(tmp_path):
    for number in range(250):
        Image.new("L", (8, 8 + number)).save(tmp_path / f"{number:03d}.png")
    heights = []

    def detect(photo):
        heights.append(photo.shape[0])
        return half(photo)

    framing_of(sorted(tmp_path.iterdir()), detect)
    assert 30 <= len(heights) <= 60
    assert min(heights) == 8
    assert max(heights) > 240


@pytest.mark.parametrize(
    ("shape", "fill", "alike"),
    [
        *((0.75, 0.6, True), (0.8, 0.52, True), (2 / 3, 0.7, True)),
        *((1.0, 0.6, False), (9 / 16, 0.6, False), (0.75, 0.45, False), (0.75, 0.8, False)),
    ],
)
def test_framings_are_alike_within_a_fifth(shape, fill, alike):
    assert Framing(shape, fill).is_like(Framing(0.75, 0.61)) == alike
    assert Framing(0.75, 0.61).is_like(Framing(shape, fill)) == alike


def test_the_margin_gives_a_face_its_size():
    framing = Framing(fill=0.5)
    assert 1 / (1 + 2 * framing.margin) == pytest.approx(0.5)
