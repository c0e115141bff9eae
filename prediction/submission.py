"""The files of a submission: NAME.csv (predictions), NAME.json (what made them), NAME.npz
(probabilities) and NAME-predictions.csv (a table in words).

The CSV is the competition's: a header `ImageID,ans`, a row a photo. Nothing here is pickled, and a
file written is whole.
"""

import csv
import io
import string
import tempfile
import zipfile
import zlib
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError, counted, first_line
from core.files import atomic, numbered, read_csv, read_json, write_json
from core.labels import CLASSES
from prediction.words import table

TABLE = "-predictions.csv"
PLAIN = (string.ascii_letters + string.digits + "._-/,\n").encode()  # what needs no care in a CSV


def few(names) -> str:
    """The first three of `names`, quoted, and how many more there are."""
    shown, rest = ", ".join(repr(str(name)[:80]) for name in names[:3]), len(names) - 3
    return f"{shown} and {rest} more" if rest > 0 else shown


def output_path(path: Path, overwrite: bool) -> Path:
    """`path`, or NAME-2.csv, NAME-3.csv ... where a file of that name must not be overwritten.

    Raises UserError if its folder cannot be written to, so that this is reported before the work.
    """
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written to ({error.strerror}); give another folder"
        ) from None
    return path if overwrite else next(free for free in numbered(path) if not is_taken(free))


def is_taken(path: Path) -> bool:
    """Whether a file of the submission `path` exists."""
    return any(file.exists() for file in files_of(path))


def finished(path: Path, job: str) -> Path | None:
    """The submission of that name, or NAME-2 ..., whose sidecar names `job`."""
    taken = takewhile(is_taken, numbered(path))
    return next((one for one in taken if read_sidecar(one).get("job") == job), None)


def files_of(path: Path) -> list[Path]:
    """All files of the submission `path`."""
    table_path = path.with_name(path.stem + TABLE)
    return [path, path.with_suffix(".json"), path.with_suffix(".npz"), table_path]


def without_tables(paths: list[Path]) -> list[Path]:
    """`paths` without tables in words beside their submission (output/*.csv has both)."""

    def is_table(path):
        return (
            path.name.endswith(TABLE)
            and path.with_name(path.name.removesuffix(TABLE) + ".csv").is_file()
        )

    return [path for path in paths if not is_table(path)]


def read_submission(path: Path, unique: bool = True) -> pd.DataFrame:
    """Columns ImageID (text) and ans (int8, 0..17), the file's rows in the file's order.

    Raises UserError, with the row where there is one: file or column missing, no rows, no ImageID,
    an ans that is no class, and, where `unique`, an ImageID that appears twice. Other columns are
    ignored. Rows are counted as a spreadsheet does.
    """
    ids, ans = read_columns(path)
    frame = pd.DataFrame({"ImageID": as_text(ids), "ans": ans})
    if unique and frame["ImageID"].duplicated().any():
        row = int(frame["ImageID"].duplicated().argmax())
        raise UserError(
            f"{path}, row {row + 2}: ImageID {frame['ImageID'][row][:80]!r} appears twice"
        )
    return frame


def read_columns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """ImageIDs (N,), as bytes from a plain file, else as text; ans (N,) int8. Errors as above."""
    plain = _read_plain(path)
    if plain:
        return plain
    frame = read_csv(path, ["ImageID", "ans"])
    if frame.empty:
        raise UserError(f"{path}: has a header but no rows")
    whole = frame["ans"].str.strip().str.replace(r"\.0*$", "", regex=True)  # pandas writes 5.0
    bad = ~whole.str.fullmatch(r"0*(\d|1[0-7])").astype(bool)
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"{path}, row {row + 2}: ans {frame['ans'][row][:40]!r} is not a class; "
            f"it is a whole number from 0 to {CLASSES - 1}"
        )
    if (frame["ImageID"] == "").any():
        raise UserError(f"{path}, row {int((frame['ImageID'] == '').argmax()) + 2}: has no ImageID")
    return frame["ImageID"].to_numpy(object), whole.astype(np.int8).to_numpy()


def as_text(ids: np.ndarray) -> pd.Series:
    """ImageIDs from read_columns as text."""
    return pd.Series([name.decode() for name in ids.tolist()] if ids.dtype.kind == "S" else ids)


def _read_plain(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What read_columns returns, of a file as write_submission writes it with plain names.

    A million rows take half a second, a tenth of what read_csv takes. None for any other file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    if not content.startswith(b"ImageID,ans\n") or content.translate(None, PLAIN):
        return None
    if b",-" in content:  # -0 would be a class
        return None
    ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
    longest = int(np.diff(ends).max(initial=0))
    if longest > 256 or content.count(b",") != len(ends):  # longer: a fixed width takes much memory
        return None
    try:
        types = {"ImageID": f"S{longest}"}
        frame = pd.read_csv(io.BytesIO(content), dtype=types, na_filter=False, low_memory=False)
    except ValueError:
        return None
    ids, ans = frame["ImageID"].to_numpy(), frame["ans"].to_numpy()
    if len(ans) + 1 != len(ends) or ans.dtype.kind != "i" or (ids == b"").any():
        return None
    return (ids, ans.astype(np.int8)) if 0 <= ans.min() <= ans.max() < CLASSES else None


def align(path: Path, ids, photos: pd.Index) -> np.ndarray:
    """The position in `ids`, the ImageIDs read from `path`, of each of `photos`.

    UserError that names a few unless both hold the same ones.
    """
    ids = pd.Index(ids)
    if ids.equals(photos):
        return np.arange(len(photos))
    if not ids.is_unique:
        raise UserError(f"{path}: ImageID {few(ids[ids.duplicated()].unique())} appears twice")
    order = ids.get_indexer(photos)
    missing = photos[order < 0]
    extra = ids[~ids.isin(photos)] if len(ids) > (order >= 0).sum() else []
    if len(missing) or len(extra):
        parts = [
            f"{len(names)} {what} ({few(names)})"
            for names, what in ((missing, "missing"), (extra, "extra"))
            if len(names)
        ]
        raise UserError(f"{path}: its photos are not those of the rest: {', '.join(parts)}")
    return order


def write_submission(path: Path, frame: pd.DataFrame) -> None:
    """Write the columns ImageID and ans exactly as the competition has them, atomically."""
    ans = frame["ans"].to_numpy()
    if ans.dtype.kind not in "iu" or (len(ans) and not 0 <= ans.min() <= ans.max() < CLASSES):
        raise ValueError(f"ans must be whole numbers 0..{CLASSES - 1}")
    ids = frame["ImageID"].tolist()
    # Python before 3.12 leaves a carriage return unquoted
    quoting = csv.QUOTE_NONNUMERIC if any("\r" in name for name in ids) else csv.QUOTE_MINIMAL
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n", quoting=quoting)
        writer.writerow(["ImageID", "ans"])
        writer.writerows(zip(ids, ans.tolist(), strict=True))


def write(path: Path, image_ids, probabilities: np.ndarray, sidecar: dict) -> None:
    """Write all files of the submission `path`; the CSV last, when the others are there."""
    write_sidecar(path, sidecar)
    write_probabilities(path.with_suffix(".npz"), image_ids, probabilities)
    write_table(path, image_ids, probabilities)
    write_submission(path, pd.DataFrame({"ImageID": image_ids, "ans": probabilities.argmax(1)}))


def unread(probabilities: np.ndarray) -> np.ndarray:
    """True (N,) for photos that could not be read."""
    return np.isnan(probabilities).any(axis=1)


def write_table(path: Path, image_ids, probabilities: np.ndarray) -> None:
    """Write the predictions (N, 18) in words beside the submission `path`, atomically.

    Columns: ImageID, ans, then those of prediction.words.table; some rows at a time, so that a
    million photos take no more memory than a thousand.
    """
    ids = np.asarray(image_ids, dtype=object)
    with atomic(path.with_name(path.stem + TABLE)) as temporary:
        for start in range(0, max(1, len(ids)), 10_000):
            rows = slice(start, start + 10_000)
            part = table(probabilities[rows]).rename(columns={"class": "ans"})
            part.insert(0, "ImageID", ids[rows])
            part.to_csv(
                temporary,
                mode="a",
                header=start == 0,
                index=False,
                float_format="%.4f",
                lineterminator="\n",
            )


def read_sidecar(path: Path) -> dict:
    """NAME.json beside the submission `path`: name, model, macro_f1, kind...; empty if missing."""
    beside = Path(path).with_suffix(".json")
    return read_json(beside) if beside.is_file() else {}


def write_sidecar(path: Path, content: dict) -> None:
    """Write `content` to NAME.json beside the submission `path`."""
    write_json(Path(path).with_suffix(".json"), content)


def read_probabilities(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """ImageID (N,) text and probabilities (N, 18) float32 of an npz; UserError if it is none."""
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
            f"{path}: ImageID is {ids.dtype}{ids.shape} and probabilities {probabilities.dtype}"
            f"{probabilities.shape}; expected text (N,) and floats (N, {CLASSES})"
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
            f"{path}: {counted(wrong.sum(), 'row')} without probabilities, first that of "
            f"{str(ids[wrong.argmax()])[:80]!r}; they are at least 0 and sum to 1"
        )
    return ids, probabilities


def write_probabilities(path: Path, image_ids, probabilities: np.ndarray) -> None:
    """Write ImageIDs (N,) and probabilities (N, 18) for read_probabilities, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            ImageID=np.asarray(image_ids, dtype=str),
            probabilities=np.asarray(probabilities, dtype=np.float32),
        )
