"""Everybody in a picture: where each face is, and the probabilities of its classes."""

import numpy as np

from core.faces import MARGIN, FaceDetector, portrait
from core.photo import fit

SMALLEST = 40  # pixels of height; of smaller faces there is too little to see
IN_VIEW = (
    0.75  # share of a face that must be in the picture; of less, the decision would be a guess
)
FILLS = 0.3  # share of the photo's height from which a lone face makes the photo a portrait


class PeopleReader:
    """Find faces and predict them: `reader(picture)`, (H, W, 3) uint8 RGB -> faces (N, 5),
    probabilities (N, 18).

    model: (N, height, width, 3) uint8 -> (N, 18) probabilities; description: its `resize` and
    `crop`. Faces are left, top, width, height and score, the largest first."""

    def __init__(self, model, description: dict, detector: FaceDetector, margin: float = MARGIN):
        self.model, self.detector, self.margin = model, detector, margin
        self.resize, self.crop = tuple(description["resize"]), description["crop"]

    def __call__(self, picture: np.ndarray):
        faces = self.faces(picture)
        if not len(faces):
            return faces, np.zeros((0, 18))
        boxes = [portrait(face, self.margin, *picture.shape[1::-1]) for face in faces]
        crops = [picture[top:bottom, left:right] for left, top, right, bottom in boxes]
        return faces, self.model(np.stack([fit(crop, self.resize, self.crop) for crop in crops]))

    def photo(self, picture: np.ndarray, whole: np.ndarray | None = None):
        """As calling it, for a photo somebody chose: a portrait, and one without a face, are
        predicted as they are.

        So a portrait of the competition's kind gets the same prediction alone and in a folder.
        People come from left to right. The face of a photo in which none was found is nan. whole:
        the photo as load_photo gives it, which may have decoded it at a smaller scale."""
        faces = self.faces(picture)
        if not len(faces) or is_portrait(faces, picture):
            faces = faces if len(faces) else np.full((1, 5), np.nan)
            pixels = fit(picture, self.resize, self.crop) if whole is None else whole
            return faces, self.model(pixels[None])
        faces, probabilities = self(picture)
        order = np.argsort(faces[:, 0])
        return faces[order], probabilities[order]

    def faces(self, picture: np.ndarray) -> np.ndarray:
        """Faces (N, 5) that are large enough and wholly enough in the picture."""
        faces = self.detector(picture)
        shown = in_view(faces, *picture.shape[1::-1]) >= IN_VIEW
        return faces[shown & ((faces[:, 3] >= SMALLEST) | is_portrait(faces, picture))]


def is_portrait(faces: np.ndarray, picture: np.ndarray) -> bool:
    """Whether a photo shows one person, whose face fills enough of it."""
    return len(faces) == 1 and faces[0, 3] >= FILLS * picture.shape[0]


def in_view(faces: np.ndarray, width: int, height: int) -> np.ndarray:
    """The share (N,) of each box that lies in a picture."""
    left_top = np.maximum(faces[:, :2], 0)
    right_bottom = np.minimum(faces[:, :2] + faces[:, 2:4], (width, height))
    return np.maximum(right_bottom - left_top, 0).prod(axis=1) / faces[:, 2:4].prod(axis=1)
