"""The list of `--extra`: more photos to train on, of which only some labels may be known."""

import contextlib
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError, counted
from core.files import digest_of_file, read_csv
from core.labels import AGES, ATTRIBUTES, GENDERS, MASK_OF_STEM, MASKS, MAX_AGE, age_band
from core.listing import Names

UNKNOWN = -1
COLUMNS = ("path", "mask", "gender", "youngest", "oldest")
AGE = re.compile(r"(\d{1,3})(?:\.0)?|(\d{1,3}) ?[-–] ?(\d{1,3})|(\d{1,3}) ?\+")


def no_extra() -> pd.DataFrame:
    """The table of a run without such photos."""
    return pd.DataFrame({name: [] for name in COLUMNS}).astype(dict.fromkeys(COLUMNS[1:], int))


def read_extra(table: Path, attribute: str | None = None) -> pd.DataFrame:
    """The photos of a CSV with the columns path, mask, gender, age; an empty cell is unknown.

    The result has the columns path, mask (0..2), gender (0..1), youngest and oldest (years), a row
    a photo, by path; an unknown mask or gender is -1, an unknown age 0 to MAX_AGE. Paths are
    relative to the folder of the CSV, or absolute; an age is a number, a range (20-29) or 60+. With
    `attribute`, photos whose mask, gender or age is unknown are left out. Raises UserError for a
    photo that is missing or listed twice, a value that is none, and a row or list of which nothing
    is known.
    """
    rows = read_csv(table, ["path"])
    for name in ATTRIBUTES:
        if (count := list(rows.columns).count(name)) > 1:
            raise UserError(f"{table}: has several columns {name!r}; keep one")
        if not count:
            rows[name] = ""
    names, photos, missing = Names(table.parent), [], []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        where = f"{table}, row {index + 2}"
        path = names.find(row["path"].strip()) if row["path"].strip() else None
        if path is None:
            missing.append(f"{where}: there is no photo {str(table.parent / row['path'])!r}")
        words = {name: row[name].strip().lower() for name in ATTRIBUTES}
        if not any(words.values()):
            raise UserError(f"{where}: gives no mask, gender or age; take the row out of the list")
        youngest, oldest = _ages(words["age"], where)
        mask, gender = _mask(words["mask"], where), _gender(words["gender"], where)
        photos.append((str(path), mask, gender, youngest, oldest))
    if missing:
        photos_are = counted(len(missing), "photo is", "photos are")
        raise UserError(
            f"{missing[0]} (paths begin at the list's folder); {photos_are} missing (of "
            f"{len(rows):,}): add them, or take their rows out"
        )
    frame = pd.DataFrame(sorted(photos), columns=COLUMNS)  # a resumed run needs the same rows
    if frame["path"].duplicated().any():
        first = frame["path"][frame["path"].duplicated()].iloc[0]
        raise UserError(f"{table}: lists {first} twice; keep one of the rows")
    if attribute and len(frame):
        frame = frame[known(frame)[attribute]].reset_index(drop=True)
    if frame.empty:
        what = f"photos whose {attribute} is known" if attribute else "photos"
        raise UserError(f"{table}: lists no {what}; leave --extra out")
    return frame


def _mask(word: str, where: str) -> int:
    if word in ("", *MASKS):
        return MASKS.index(word) if word else UNKNOWN
    if word not in MASK_OF_STEM:
        raise UserError(f"{where}: mask cannot be {word!r}; it is wear, incorrect or not wear")
    return MASK_OF_STEM[word]


def _gender(word: str, where: str) -> int:
    if word not in ("", *GENDERS):
        raise UserError(f"{where}: gender cannot be {word!r}; it is male or female")
    return GENDERS.index(word) if word else UNKNOWN


def _ages(word: str, where: str) -> tuple[int, int]:
    """The youngest and the oldest that a photo's person may be."""
    found = AGE.fullmatch(word)
    if not word:
        return 0, MAX_AGE
    years, first, last, least = found.groups() if found else [None] * 4
    youngest, oldest = int(years or first or least or 0), int(years or last or MAX_AGE)
    if not found or not youngest <= oldest <= MAX_AGE:
        raise UserError(
            f"{where}: age cannot be {word!r}; it is a number of years up to {MAX_AGE}, a range "
            "such as 20-29, or 60+"
        )
    return youngest, oldest


def known(frame: pd.DataFrame) -> pd.DataFrame:
    """Whether each photo's mask, gender and age are known, an age by a range too."""
    ranged = (frame["youngest"] > 0) | (frame["oldest"] < MAX_AGE)
    return pd.DataFrame({"mask": frame["mask"] >= 0, "gender": frame["gender"] >= 0, "age": ranged})


def possible_classes(frame: pd.DataFrame, bands) -> np.ndarray:
    """(N, 18), bool: the classes that each photo may have."""
    axes = []
    for name in ("mask", "gender"):
        given = frame[name].to_numpy()[:, None]
        axes.append((given == np.arange(len(ATTRIBUTES[name]))) | (given == UNKNOWN))
    band, (first, last) = np.arange(len(AGES)), _bands(frame, bands)
    axes.append((first[:, None] <= band) & (band <= last[:, None]))
    mask, gender, age = axes
    cube = mask[:, :, None, None] & gender[:, None, :, None] & age[:, None, None, :]
    return cube.reshape(len(frame), -1)


def certain(frame: pd.DataFrame, bands) -> tuple[np.ndarray, ...]:
    """Each photo's mask, gender and age band, (N,) each; -1 where it is not certain."""
    first, last = _bands(frame, bands)
    band = np.where(first == last, first, UNKNOWN)
    return frame["mask"].to_numpy(), frame["gender"].to_numpy(), band


def _bands(frame: pd.DataFrame, bands) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last age band of each photo."""
    youngest, oldest = frame["youngest"].to_numpy(), frame["oldest"].to_numpy()
    return age_band(youngest, bands), age_band(oldest, bands)


def refuse_own(frame: pd.DataFrame, paths, table: Path) -> None:
    """UserError if a photo is, or equals, one of `paths`, of data_dir: it could be validated on."""
    own, listed = _by_size(paths), _by_size(frame["path"])
    copies = set()
    for size in own.keys() & listed.keys():  # only what is as long is read
        ours = set(_read_with(digest_of_file, own[size]).values())
        theirs = _read_with(digest_of_file, listed[size])
        copies.update(path for path, digest in theirs.items() if digest in ours)
    both = [path for path in frame["path"] if path in copies]
    if both:
        raise UserError(
            f"{table}: lists {counted(len(both), 'photo')} of --data_dir, first {both[0]}; take "
            "these rows out: their labels are known"
        )


def _by_size(paths) -> dict[int, list]:
    """The files, by their length in bytes."""
    result = defaultdict(list)
    for path, size in _read_with(os.path.getsize, paths).items():
        result[size].append(path)
    return result


def _read_with(read, paths) -> dict:
    """path -> read(path), without the files that cannot be read: training says what is wrong."""
    result = {}
    for path in paths:
        with contextlib.suppress(OSError):
            result[path] = read(path)
    return result


def summary(frame: pd.DataFrame) -> str:
    """How many photos there are, and of how many each attribute is known."""
    counts = known(frame).sum()
    parts = ", ".join(f"{name} of {counts[name]:,}" for name in ATTRIBUTES)
    return f"{counted(len(frame), 'photo')}; known: {parts}"
