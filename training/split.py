"""Who is trained on, who is validated on (whole people), how often photos are sampled."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError, counted
from core.files import atomic, read_csv
from core.labels import CLASSES, age_band
from core.listing import readable


def split_people(
    frame: pd.DataFrame, seed: int, folds: int | None = None, val_ratio: float = 0.2
) -> pd.DataFrame:
    """Columns person, fold: the fold in which a person is validated, -1 for who always trains.

    Stratified by gender and official age band; depends on the people's names, their labels and the
    seed alone. Raises UserError if a part would be empty.
    """
    people = frame.drop_duplicates("person").sort_values("person", ignore_index=True)
    strata = people["gender"] * 3 + age_band(people["age"])
    fold = np.full(len(people), -1)
    if folds:
        fold = _folds(people, strata, folds, seed)
    elif val_ratio:
        fold[_held_out(people, strata, val_ratio, seed)] = 0
    return pd.DataFrame({"person": people["person"], "fold": fold})


def _folds(people: pd.DataFrame, strata: pd.Series, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    if not 2 <= folds <= len(people):
        raise UserError(f"--folds {folds}: give 2 to {len(people)}, the number of people")
    # scikit-learn wants at least one stratum with as many people as folds
    strata = strata if strata.value_counts().max() >= folds else np.zeros(len(people))
    fold = np.full(len(people), -1)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # it warns where the smallest stratum has fewer people than folds
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        for number, (_, held_out) in enumerate(splitter.split(people, strata)):
            fold[held_out] = number
    return fold


def _held_out(people: pd.DataFrame, strata: pd.Series, val_ratio: float, seed: int) -> np.ndarray:
    """Positions of the people to validate on."""
    from sklearn.model_selection import train_test_split

    count = round(len(people) * val_ratio)
    if not 0 < count < len(people):
        raise UserError(
            f"--val_ratio {val_ratio}: leaves {count} of {len(people)} people to validate on; "
            "give a ratio that leaves some on both sides, or 0 to train on everybody"
        )
    sizes = strata.map(strata.value_counts())
    strata = strata.where(sizes >= 2, strata.mode()[0])  # one person alone cannot be divided
    stratified = min(count, len(people) - count) >= strata.nunique() and len(people) >= 4
    positions = np.arange(len(people))
    stratify = strata if stratified else None
    return train_test_split(positions, test_size=count, random_state=seed, stratify=stratify)[1]


def write_split(split: pd.DataFrame, path: Path) -> None:
    """Write split.csv, atomically."""
    with atomic(path) as temporary:
        split.to_csv(temporary, index=False)


def read_split(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """A split written earlier, for the people of `frame`; UserError if it lacks some of them."""
    split = read_csv(path, ["person", "fold"])
    split["person"] = split["person"].map(readable)
    if not split["fold"].str.fullmatch(r"-1|\d+").all() or split["person"].duplicated().any():
        raise UserError(
            f"{path}: not a split; it has one row a person, and a fold number or -1 in each"
        )
    unknown = sorted(set(frame["person"]) - set(split["person"]))
    if unknown:
        people = counted(len(unknown), "person", "people")
        raise UserError(
            f"{path}: lacks {people} of this data set, first {unknown[0]!r}; take another split or "
            "leave --split out"
        )
    split["fold"] = split["fold"].astype(int)
    return split[split["person"].isin(set(frame["person"]))].reset_index(drop=True)


def sampling_weights(labels: np.ndarray, policy: str) -> np.ndarray | None:
    """Chance of each photo in an epoch.

    "shuffle": None, every photo once. "weighted": 1 / sqrt of its class's count (Mahajan et al.
    2018, https://arxiv.org/abs/1805.00932). "balanced": 1 / count (Kang et al. 2020,
    https://arxiv.org/abs/1910.09217).
    """
    if policy == "shuffle":
        return None
    counts = np.bincount(labels, minlength=CLASSES)[labels].astype(float)
    weights = counts ** (-0.5 if policy == "weighted" else -1.0)
    return weights / weights.sum()


def thin(frame: pd.DataFrame, keep: int | None, seed: int) -> pd.DataFrame:
    """Keep at most `keep` photos a person with the mask worn, and all of the other states."""
    if not keep:
        return frame
    order = np.random.default_rng(seed).permutation(len(frame))
    rank = frame.assign(order=order).sort_values("order").groupby(["person", "mask"]).cumcount()
    return frame[(frame["mask"] != 0) | (rank.reindex(frame.index) < keep)].reset_index(drop=True)
