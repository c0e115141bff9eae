"""The shape of photos, width / height: one of another shape than the training photos, cropped and
resized like them, shows its faces squeezed or stretched.
"""

import numpy as np

from core.photo import REFERENCE, PhotoError, upright_size

USUAL = REFERENCE[1] / REFERENCE[0]
TOLERANCE = 1.12  # phones take 3:4, passport photos are 7:9
LOOKED_AT = 100  # photos of a folder


def shapes(paths) -> np.ndarray:
    """Of up to LOOKED_AT of the photos, evenly spaced; fewer where some cannot be read."""
    known = []
    for path in paths[:: -(-len(paths) // LOOKED_AT) or 1]:
        try:
            width, height = upright_size(path)
        except PhotoError:  # told where photos are checked
            continue
        known.append(width / height)
    return np.array(known)


def usual_shape(paths) -> float:
    """The median of the photos' shapes; USUAL where none can be read."""
    known = shapes(paths)
    return round(float(np.median(known)), 4) if len(known) else USUAL


def differs(shape, usual: float):
    """Whether a shape, or each of an array of them, is not about the `usual` one."""
    return np.abs(np.log(np.asarray(shape) / usual)) > np.log(TOLERANCE)
