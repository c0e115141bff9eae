"""The shape of photos, by their headers."""

import numpy as np
from PIL import Image

from core.shape import USUAL, differs, shapes, usual_shape


def test_shapes_are_those_of_the_upright_photos_and_skip_what_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (40, 20)).save(tmp_path / "b.png")
    (tmp_path / "c.jpg").write_bytes(b"no photo")
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg", "missing.jpg")]
    assert shapes(paths).tolist() == [0.75, 2.0]
    assert usual_shape(paths[:1]) == 0.75
    assert usual_shape(paths[2:]) == usual_shape([]) == USUAL


def test_a_hundred_photos_of_many_are_looked_at_from_the_first_to_the_last(tmp_path):
    for number in range(250):
        Image.new("L", (1 + number, 1)).save(tmp_path / f"{number:03d}.png")
    looked_at = shapes(sorted(tmp_path.iterdir()))
    assert 50 <= len(looked_at) <= 100
    assert looked_at.min() == 1
    assert looked_at.max() > 240


def test_shapes_differ_beyond_an_eighth():
    assert differs(np.array([0.66, 0.7, 0.75, 0.8, 0.85, 1.0]), 0.75).tolist() == [
        *(True, False, False, False, True, True)
    ]
