"""Everybody in a picture is found and predicted; a portrait is predicted as it is."""

import numpy as np
import pytest
from PIL import Image

from core.faces import portrait
from core.framing import Framing
from prediction.people import PeopleReader

NOBODY = np.zeros((0, 5))


class Brightness:
    """A model that keeps what it is given and puts all on the class that the mean of the pixels
    says.
    """

    def __call__(self, photos):
        self.photos = photos
        brightness = np.array([np.asarray(photo).mean() for photo in photos])
        return np.eye(18)[np.clip(brightness.astype(int) // 10, 0, 17)]


@pytest.fixture
def picture():
    """(300, 600, 3): three faces of 60 x 80 at x = 50, 250 and 450, as bright as 10, 20 and 30."""
    pixels = np.zeros((300, 600, 3), np.uint8)
    for number in range(3):
        pixels[:, 200 * number : 200 * number + 200] = 10 * (number + 1)
    return pixels


PORTRAIT = Framing(0.75, 0.625)


def reader_of(faces, framing=PORTRAIT):
    return PeopleReader(Brightness(), lambda _: np.asarray(faces, float), framing)


FACES = [[450, 100, 60, 80, 0.9], [50, 100, 60, 80, 0.9], [250, 100, 60, 80, 0.9]]


def test_each_face_is_cut_out_and_predicted(picture):
    reader = reader_of(FACES)
    faces, probabilities = reader(picture)
    assert probabilities.argmax(1).tolist() == [3, 1, 2]
    np.testing.assert_array_equal(faces, FACES)


def test_people_in_a_photo_come_from_left_to_right(picture):
    faces, probabilities = reader_of(FACES).photo(picture)
    assert probabilities.argmax(1).tolist() == [1, 2, 3] and faces[:, 0].tolist() == [50, 250, 450]


def test_a_portrait_is_predicted_as_it_is(picture, tmp_path):
    reader = reader_of([[60, 40, 120, 180, 0.9]])
    portrait_photo = picture[:, :225].copy()
    portrait_photo[::2] += 3
    faces, _ = reader.photo(portrait_photo)
    assert reader.predict.photos[0] is portrait_photo and faces.shape == (1, 5)
    Image.fromarray(portrait_photo).save(tmp_path / "a.png")
    assert reader.look(tmp_path / "a.png")[1] == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("width", "face_height", "framing"),
    [
        (300, 150, Framing(0.75, 0.6)),  # square
        (400, 150, Framing(0.75, 0.6)),  # of a webcam
        (160, 150, Framing(0.75, 0.6)),  # of a telephone held upright
        (225, 120, Framing(0.75, 0.6)),  # too far away
        (225, 180, Framing(0.75, 0.8)),
        (225, 150, Framing(1.0, 0.6)),
    ],
)
def test_the_face_of_a_portrait_of_another_framing_is_cut_out(picture, width, face_height, framing):
    """Else it would be squeezed, stretched, or smaller than the faces that the model knows."""
    reader = reader_of([[40, 60, 0.5 * face_height, face_height, 0.9]], framing)
    reader.photo(np.ascontiguousarray(picture[:, :width]))
    height, width, _ = reader.predict.photos[0].shape
    assert height < 300
    assert width / height == pytest.approx(framing.shape, abs=0.02)
    assert face_height / height == pytest.approx(framing.fill, rel=0.2)  # moved by the edge


def test_a_square_portrait_is_predicted_as_it_is_by_a_model_of_square_photos(picture):
    reader = reader_of([[80, 40, 120, 180, 0.9]], Framing(1.0, 0.6))
    photo = np.ascontiguousarray(picture[:, :300])
    reader.photo(photo)
    assert reader.predict.photos[0] is photo


def test_without_a_face_a_photo_is_predicted_whole_and_a_frame_not_at_all(picture):
    reader = reader_of(NOBODY)
    faces, probabilities = reader.photo(picture)
    assert np.isnan(faces).all() and probabilities.shape == (1, 18)
    faces, probabilities = reader(picture)
    assert faces.shape == (0, 5) and probabilities.shape == (0, 18)


def test_faces_that_are_small_or_mostly_outside_are_left_out(picture):
    small, outside, whole = [100, 100, 20, 30, 0.9], [-40, 100, 60, 80, 0.9], FACES[0]
    assert reader_of([small, outside, whole])(picture)[0].tolist() == [whole]


def test_the_box_around_a_face_has_the_face_at_its_share_of_a_portrait():
    left, top, right, bottom = portrait([300, 200, 75, 100], 0.3, 1000, 1000)
    assert (bottom - top, right - left) == (160, 120) and abs((left + right) / 2 - 337.5) <= 0.5
