"""Predictions in words: mask, gender and age band, each with its probability."""

import numpy as np

MASKS = ("mask worn", "mask worn incorrectly", "no mask")
GENDERS = ("male", "female")
AGES = ("under 30", "30 to 59", "60 and over")
WORDS = {"mask": MASKS, "gender": GENDERS, "age": AGES}
SHAPE = tuple(len(values) for values in WORDS.values())


def words(probabilities: np.ndarray) -> list[tuple[str, float]]:
    """Mask, gender and age of the most probable of 18 classes, each with its own probability."""
    cube = probabilities.reshape(SHAPE)
    best = np.unravel_index(cube.argmax(), SHAPE)
    return [
        (values[index], float(cube.take(index, axis).sum()))
        for axis, (values, index) in enumerate(zip(WORDS.values(), best, strict=True))
    ]


def attribute_probabilities(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """(N, 18) -> mask (N, 3), gender (N, 2) and age (N, 3), each summed over the other two."""
    cube = probabilities.reshape(-1, *SHAPE)
    return {"mask": cube.sum((2, 3)), "gender": cube.sum((1, 3)), "age": cube.sum((1, 2))}


def table(probabilities: np.ndarray, index=None):
    """A pandas frame of predictions, a row for each of the (N, 18) probabilities.

    class (0..17); mask, gender, age (words); p_mask_worn ... p_60_and_over (each attribute's
    probabilities, summed over the other two); p0 ... p17 (the classes' probabilities).
    """
    import pandas as pd

    best = probabilities.argmax(axis=1)
    columns = {"class": best}
    for (name, values), which in zip(WORDS.items(), np.unravel_index(best, SHAPE), strict=True):
        columns[name] = np.array(values, dtype=object)[which]
    for name, shares in attribute_probabilities(probabilities).items():
        for value, share in zip(WORDS[name], shares.T, strict=True):
            columns["p_" + value.replace(" ", "_")] = share
    columns |= {f"p{label}": column for label, column in enumerate(probabilities.T)}
    return pd.DataFrame(columns, index=index)
