"""Everybody in a picture: where each face is, and the probabilities of its classes."""

import functools
from pathlib import Path

import numpy as np

from core.faces import WINNERS_CROP, FaceDetector, best_face, portrait
from core.framing import Framing
from core.photo import crop_box, read_photo

SMALLEST = 40  # pixels of height; of smaller faces there is too little to see
IN_VIEW = 0.75  # share of a face that must be in the picture; less would be a guess
FILLS = 0.3  # share of the photo's height from which a lone face is not too small


class PeopleReader:
    """Find faces and predict them: `reader(picture)`, (H, W, 3) uint8 RGB -> faces (N, 5),
    probabilities (N, 18).

    predict: a list of photos -> (N, 18) probabilities, as Predictor.probabilities. Faces are left,
    top, width, height and score, the largest first; they are cut out as the training photos show
    them, which `framing` says."""

    def __init__(self, predict, detector: FaceDetector, framing: Framing):
        self.predict, self.detector, self.framing = predict, detector, framing

    def __call__(self, picture: np.ndarray):
        faces = self.faces(picture)
        return faces, self.predict(self.portraits(picture, faces))

    def photo(self, picture: np.ndarray):
        """As calling it, for a photo somebody chose: see `look`."""
        faces, seen = self.look(picture)
        return faces, self.predict(seen)

    def look(self, photo):
        """Faces and what to predict for each, of a photo somebody chose (a path or a picture).

        A portrait framed like the training photos, and a photo without a face, are predicted as
        they are, so that such a portrait gets the same prediction alone and in a folder. People
        come from left to right. The face of a photo in which none was found is nan. PhotoError if
        unreadable.
        """
        picture = photo if isinstance(photo, np.ndarray) else read_photo(photo)
        faces = self.faces(picture)
        if not len(faces) or self.is_portrait(faces, picture):
            return (faces if len(faces) else np.full((1, 5), np.nan)), [photo]
        faces = faces[np.argsort(faces[:, 0])]
        return faces, self.portraits(picture, faces)

    def look_closer(self, photo):
        """As `look`, but the best face of every photo is cut out, and of no other."""
        picture = photo if isinstance(photo, np.ndarray) else read_photo(photo)
        faces = self.detector(picture)
        if not len(faces):
            box = tuple(round(side) for side in crop_box(*picture.shape[1::-1], WINNERS_CROP))
            return np.full((1, 5), np.nan), [picture[box[1] : box[3], box[0] : box[2]]]
        best = best_face(faces, *picture.shape[1::-1])[None]
        return best, self.portraits(picture, best)

    def portraits(self, picture: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
        size, (margin, shape) = picture.shape[1::-1], (self.framing.margin, self.framing.shape)
        boxes = [portrait(face, margin, *size, shape) for face in faces]
        return [picture[top:bottom, left:right] for left, top, right, bottom in boxes]

    def faces(self, picture: np.ndarray) -> np.ndarray:
        """Faces (N, 5) that are large enough and wholly enough in the picture."""
        faces = self.detector(picture)
        shown = in_view(faces, *picture.shape[1::-1]) >= IN_VIEW
        fills_it = len(faces) == 1 and faces[0, 3] >= FILLS * picture.shape[0]
        return faces[shown & ((faces[:, 3] >= SMALLEST) | fills_it)]

    def is_portrait(self, faces: np.ndarray, picture: np.ndarray) -> bool:
        """Whether a photo shows one person, framed as in the training photos."""
        height, width = picture.shape[:2]
        return len(faces) == 1 and Framing(width / height, faces[0, 3] / height).is_like(
            self.framing
        )


class FaceCrops:
    """A sequence of photos, each cropped to its best face when it is asked for."""

    def __init__(self, photos, detector: Path | None, framing: Framing):
        FaceDetector(detector)  # UserError if it is none, before any work
        self.photos, self.detector, self.framing = photos, detector, framing

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.reader.look_closer(self.photos[row])[1][0]

    @functools.cached_property
    def reader(self) -> PeopleReader:  # in each loader worker its own
        return PeopleReader(None, FaceDetector(self.detector), self.framing)


def in_view(faces: np.ndarray, width: int, height: int) -> np.ndarray:
    """The share (N,) of each box that lies in a picture."""
    left_top = np.maximum(faces[:, :2], 0)
    right_bottom = np.minimum(faces[:, :2] + faces[:, 2:4], (width, height))
    return np.maximum(right_bottom - left_top, 0).prod(axis=1) / faces[:, 2:4].prod(axis=1)
