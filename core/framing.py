"""How faces stand in photos. A model takes a face best as its training photos show it: another
shape of the photo squeezes or stretches it, another size is one that the model has not seen.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from core.faces import CROP_MARGIN, FaceDetector
from core.photo import REFERENCE, PhotoError, load_photo, upright_size
from core.processes import cores

TOLERANCE = 1.2  # of both measures; docs/entrance.md has what a difference costs
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
    some = paths[:: -(-len(paths) // LOOKED_AT) or 1]
    with ThreadPoolExecutor(cores()) as pool:
        looked = [one for one in pool.map(lambda path: _look(path, detect), some) if one]
    shapes, fills = np.array(looked).reshape(-1, 2).T
    found = fills > 0
    if not found.any() or found.mean() < LEAST_FOUND:
        return None
    return Framing(round(float(np.median(shapes)), 3), round(float(np.median(fills[found])), 3))


def _look(path, detect) -> tuple[float, float] | None:
    """The shape of a photo and what its largest face fills, 0 for none; None if unreadable."""
    try:
        width, height = upright_size(path)
        scale = min(1.0, SIDE / max(width, height))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        faces = detect(load_photo(path, size))
    except PhotoError:  # told where photos are checked
        return None
    return width / height, faces[0, 3] / size[0] if len(faces) else 0.0
