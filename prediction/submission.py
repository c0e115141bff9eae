"""The files of a submission: answers (`name.csv`), what is known about them (`name.json`), their probabilities (`name.npz`).

The CSV is the competition's: a header `ImageID,ans`, a row a photo. Nothing here is pickled, and a file written is whole.
"""

import contextlib
import io
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError, first_line
from core.files import atomic, read_json, write_json
from core.labels import CLASSES

HEADER = "ImageID,ans\n"


SPECIAL = ('"', ",", "\r", "\n")  # CSV puts a cell with one of these in quotes


FORMULA = {
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
}  # a spreadsheet that opens the CSV would run a cell that begins with one of these


def few(names) -> str:
    """The first three of `names`, quoted, and how many more there are."""
    shown, rest = ", ".join(repr(str(name)[:80]) for name in names[:3]), len(names) - 3
    return f"{shown} and {rest} more" if rest > 0 else shown


# ---------------------------------------------------------------------------- answers
def read_submission(path: Path, unique: bool = True) -> pd.DataFrame:
    """Columns ImageID (text) and ans (int8, 0..17), the file's rows in the file's order.

    Raises UserError, with the row where there is one: file or column missing, no rows, no ImageID, an ans that is no class,
    and, where `unique`, an ImageID that stands twice. Other columns are ignored. Rows are counted as a spreadsheet does.
    """
    path = Path(path)
    try:
        return _parse(path, path.read_bytes(), unique)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as CSV ({first_line(error)})") from None


def _parse(path: Path, content: bytes, unique: bool) -> pd.DataFrame:
    options = {
        "na_filter": False,
        "skipinitialspace": True,
        "skip_blank_lines": False,
        "index_col": False,
    }
    columns = list(pd.read_csv(io.BytesIO(content), nrows=0, **options).columns)
    for column in ("ImageID", "ans"):
        if column not in columns:
            raise UserError(f"{path}: has no column {column!r}; its columns are {few(columns)}")
    content = content.rstrip() + b"\n"
    with warnings.catch_warnings(
        action="ignore", category=pd.errors.DtypeWarning
    ):  # of answers that are no numbers: found below
        frame = pd.read_csv(
            io.BytesIO(content), usecols=["ImageID", "ans"], dtype={"ImageID": str}, **options
        )
    if frame.empty:
        raise UserError(f"{path}: has a header but no rows")
    if (
        frame["ans"].dtype.kind not in "iu"
    ):  # pandas met something else than whole numbers: read again as text to find it
        text = pd.read_csv(io.BytesIO(content), usecols=["ans"], dtype=str, **options)["ans"]
        bad = ~text.str.fullmatch(r"\s*0*(\d|1[0-7])\s*")
        frame["ans"] = text
    else:
        bad = ~frame["ans"].between(0, CLASSES - 1)
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"{path}, row {row + 2}: ans {str(frame['ans'][row])[:40]!r} is not a class; "
            f"it is a whole number from 0 to {CLASSES - 1}"
        )
    if (frame["ImageID"] == "").any():
        raise UserError(f"{path}, row {int((frame['ImageID'] == '').argmax()) + 2}: has no ImageID")
    if unique and frame["ImageID"].duplicated().any():
        row = int(frame["ImageID"].duplicated().argmax())
        raise UserError(
            f"{path}, row {row + 2}: ImageID {frame['ImageID'][row][:80]!r} stands twice"
        )
    return frame.astype({"ans": np.int8})[["ImageID", "ans"]]


def align(path: Path, ids, photos: pd.Index) -> np.ndarray:
    """Where each of `photos` stands in `ids`, the ImageIDs read from `path`; UserError naming a few unless both hold the same ones."""
    ids = pd.Index(ids)
    if ids.equals(photos):
        return np.arange(len(photos))
    if not ids.is_unique:
        raise UserError(f"{path}: ImageID {few(ids[ids.duplicated()].unique())} stands twice")
    order = ids.get_indexer(photos)
    missing, extra = (
        photos[order < 0],
        ids[~ids.isin(photos)] if len(ids) > (order >= 0).sum() else [],
    )
    if len(missing) or len(extra):
        parts = [
            f"{len(names)} {what} ({few(names)})"
            for names, what in ((missing, "missing"), (extra, "extra"))
            if len(names)
        ]
        raise UserError(f"{path}: answers other photos than the rest: {', '.join(parts)}")
    return order


def line_starts(ids) -> list[str]:
    """The ImageID and comma that begin each line of a submission, quoted where CSV asks for it."""
    names = list(
        np.asarray(ids, dtype=object)
    )  # a plain list: going through a pandas column one by one is ten times slower
    together = "".join(names)
    if not any(mark in together for mark in SPECIAL):
        return [name + "," for name in names]
    return [
        '"' + name.replace('"', '""') + '",'
        if any(mark in name for mark in SPECIAL)
        else name + ","
        for name in names
    ]


def render(starts: list[str], ans: np.ndarray) -> bytes:
    """The whole submission as the bytes of its file: `starts` from line_starts, `ans` (N,)."""
    parts = [HEADER] * (1 + 2 * len(starts))
    parts[1::2] = starts
    parts[2::2] = np.array([f"{label}\n" for label in range(CLASSES)], dtype=object)[ans]
    return "".join(parts).encode()


def read_aligned(path: Path, photos: pd.Index, starts: list[str]) -> np.ndarray:
    """The answers (N,) int8 in `path` in the order of `photos`; `starts` are line_starts(photos). Errors as read_submission and align.

    A file that is byte for byte what `photos` with its answers would be written as (nearly every one) need not have its
    ImageIDs parsed, which is most of the time that reading takes.
    """
    with contextlib.suppress(OSError, ValueError):
        content = Path(path).read_bytes()
        ans = pd.read_csv(io.BytesIO(content), usecols=["ans"], na_filter=False)["ans"].to_numpy()
        if (
            len(ans) == len(starts)
            and ans.dtype.kind == "i"
            and 0 <= ans.min()
            and ans.max() < CLASSES
            and content == render(starts, ans)
        ):
            return ans.astype(np.int8)
    frame = read_submission(path)
    return frame["ans"].to_numpy()[align(path, frame["ImageID"], photos)]


def check_image_ids(ids, source: Path) -> None:
    """UserError for an ImageID that a spreadsheet would run as a formula; `source` says where it came from."""
    names = list(np.asarray(ids, dtype=object))
    if {name[:1] for name in names} & FORMULA:
        bad = [name for name in names if name[:1] in FORMULA]
        raise UserError(
            f"{source}: ImageIDs that begin like a spreadsheet formula are not written to a CSV: {few(bad)}; rename the photos"
        )


def write_submission(path: Path, frame: pd.DataFrame) -> None:
    """Write the columns ImageID and ans exactly as the competition has them, atomically. UserError as check_image_ids."""
    check_image_ids(frame["ImageID"], path)
    ans = frame["ans"].to_numpy()
    if ans.dtype.kind not in "iu" or (len(ans) and not 0 <= ans.min() <= ans.max() < CLASSES):
        raise ValueError(f"ans must be whole numbers 0..{CLASSES - 1}")
    with atomic(path) as temporary:
        temporary.write_bytes(render(line_starts(frame["ImageID"]), ans))


# ---------------------------------------------------------------------------- beside the answers
def read_sidecar(path: Path) -> dict:
    """What `name.json` beside the submission `path` says: name, model, macro_f1, kind...; empty where there is none."""
    beside = Path(path).with_suffix(".json")
    return read_json(beside) if beside.is_file() else {}


def write_sidecar(path: Path, content: dict) -> None:
    """Write `content` to `name.json` beside the submission `path`."""
    write_json(Path(path).with_suffix(".json"), content)


def read_probabilities(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """ImageID (N,) text and probabilities (N, 18) float32 from an npz; UserError if it is broken, incomplete or not that."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, probabilities = arrays["ImageID"], arrays["probabilities"]
    except FileNotFoundError:
        raise UserError(
            f"{path}: does not exist; it is what inference.py writes beside the CSV"
        ) from None
    except KeyError as error:
        raise UserError(f"{path}: holds no array {str(error).split()[0]}") from None
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path}: cannot be read as npz ({first_line(error)})") from None
    except TypeError:  # np.load gives a lone array, which cannot be opened and closed
        raise UserError(f"{path}: cannot be read as npz (holds a single array)") from None
    if (
        ids.dtype.kind != "U"
        or probabilities.dtype.kind != "f"
        or probabilities.ndim != 2
        or ids.shape != probabilities.shape[:1]
    ):
        raise UserError(
            f"{path}: ImageID is {ids.dtype}{ids.shape} and probabilities {probabilities.dtype}{probabilities.shape}; "
            f"expected text (N,) and floats (N, {CLASSES})"
        )
    if probabilities.shape[1] != CLASSES:
        raise UserError(
            f"{path}: has probabilities of {probabilities.shape[1]} classes, not {CLASSES}"
        )
    probabilities = probabilities.astype(np.float32, copy=False)
    wrong = ~(
        (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 0.01)
    )  # nan is wrong too
    if wrong.any():
        raise UserError(
            f"{path}: {wrong.sum()} rows are no probabilities, first that of {str(ids[wrong.argmax()])[:80]!r}; "
            "they are at least 0 and sum to 1"
        )
    return ids, probabilities


def write_probabilities(path: Path, image_ids, probabilities: np.ndarray) -> None:
    """Write `image_ids` (N,) and `probabilities` (N, 18) as the npz that read_probabilities reads, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            ImageID=np.asarray(image_ids, dtype=str),
            probabilities=np.asarray(probabilities, dtype=np.float32),
        )
