"""Labels: one photo's class 0..17 from its mask state, gender and age, and back."""

import numpy as np

MASKS = ("wear", "incorrect", "not wear")
GENDERS = ("male", "female")
AGES = ("<30", "30-59", "60+")
ATTRIBUTES = {"mask": MASKS, "gender": GENDERS, "age": AGES}
CLASSES = len(MASKS) * len(GENDERS) * len(AGES)
CLASS_NAMES = tuple(
    f"{mask} {gender} {age}" for mask in MASKS for gender in GENDERS for age in AGES
)
OFFICIAL_BANDS = (30, 60)  # upper-exclusive; every score is computed with these
# the photos of a person by their stems, and the mask state that each shows
MASK_OF_STEM = {**{f"mask{i}": 0 for i in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
MAX_AGE = 120


def age_band(age, bands=OFFICIAL_BANDS):
    """Age in years -> 0, 1 or 2; a band ends just before its bound. Works on numbers and arrays."""
    return np.digitize(age, bands)


def encode(mask, gender, age, bands=OFFICIAL_BANDS):
    """mask (0..2), gender (0..1), age in years -> label 0..17 = mask * 6 + gender * 3 + age band.

    Numbers or arrays.
    """
    return join(mask, gender, age_band(age, bands))


def join(mask, gender, band):
    """(mask, gender, age band) -> label 0..17. Numbers or arrays."""
    return mask * 6 + gender * 3 + band


def decode(label):
    """Label 0..17 -> (mask, gender, age band). Numbers or arrays."""
    return label // 6, label // 3 % 2, label % 3
