"""Files written whole or not at all, and the readers of JSON and CSV."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from core.errors import UserError, first_line


@contextlib.contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path`; on leaving without an error it takes the final name, else it is removed.

    The temporary file is flushed to disk before the rename, so a file under its final name is whole. What the disk refuses is a UserError.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part" + path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(temporary)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: dict) -> None:
    """Write `content` to `path`, atomically, readable by people."""
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> dict:
    """The dictionary in `path`; a UserError if it is missing, broken or something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the settings expected")
    return content


def read_csv(path: Path, columns: list[str]) -> "pandas.DataFrame":  # noqa: F821
    """A csv of text columns; UserError if it cannot be read or lacks one of `columns`."""
    import pandas as pd

    try:
        frame = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({first_line(error)})") from None
    if not isinstance(
        frame.index, pd.RangeIndex
    ):  # pandas would take the first column for names of the rows
        raise UserError(f"{path}: its rows have more fields than its first line")
    for column in columns:
        if column not in frame:
            raise UserError(
                f"{path}: has no column {column!r}; its columns are {', '.join(map(str, frame.columns))}"
            )
    return frame
