"""How faces stand in photos. A model takes a face best as its training photos show it: another
shape of the photo squeezes or stretches it, another size is one that the model has not seen.
"""

from dataclasses import dataclass

import numpy as np

from core.faces import CROP_MARGIN, FaceDetector
from core.photo import REFERENCE, PhotoError, load_photo, upright_size

TOLERANCE = 1.2  # of both measures; measured in docs/entrance.md
LOOKED_AT = 60  # photos of a folder
LEAST_FOUND = 1 / 3  # of these: with fewer faces found, their size is not known
SIDE = 480  # pixels of the longer side in which faces are looked for


@dataclass(frozen=True)
class Framing:
    """`shape`: width / height of the photos; `fill`: height of the face / height of the photo."""

    shape: float = REFERENCE[1] / REFERENCE[0]
    fill: float = 0.61  # of portraits such as the competition's

    @property
    def margin(self) -> float:
        """What to leave on each side of a face, in heights of it."""
        return (1 / self.fill - 1) / 2

    def is_like(self, other: "Framing") -> bool:
        """Whether both measures are about the same."""
        pairs = ((self.shape, other.shape), (self.fill, other.fill))
        return all(max(a / b, b / a) <= TOLERANCE for a, b in pairs)

    def __str__(self) -> str:
        return f"{self.shape:.2f} times as wide as high, faces fill {self.fill:.0%} of the height"


CROPPED_FILL = 1 / (1 + 2 * CROP_MARGIN)  # of what prepare.py crop makes


def framing_of(paths, detect=None) -> Framing | None:
    """The medians of up to LOOKED_AT of the photos, evenly spaced; None without enough faces.

    Photos that cannot be read are left out. detect: as FaceDetector, of which it is one by default.
    """
    detect = detect or FaceDetector()
    shapes, fills = [], []
    for path in paths[:: -(-len(paths) // LOOKED_AT) or 1]:
        try:
            width, height = upright_size(path)
            scale = min(1.0, SIDE / max(width, height))
            size = max(1, round(height * scale)), max(1, round(width * scale))
            faces = detect(load_photo(path, size))
        except PhotoError:  # told where photos are checked
            continue
        shapes.append(width / height)
        if len(faces):
            fills.append(faces[0, 3] / size[0])
    if not fills or len(fills) < LEAST_FOUND * len(shapes):
        return None
    return Framing(round(float(np.median(shapes)), 3), round(float(np.median(fills)), 3))
