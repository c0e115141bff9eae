"""Files written whole or not at all, and the readers of JSON and CSV."""

import codecs
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

from core.errors import UserError, first_line
from core.progress import say


@contextlib.contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path`, which takes the final name if there was no error.

    The temporary file is flushed to disk before the rename: a file under its final name is whole.
    What the disk refuses is a UserError.
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
        # a path that is not UTF-8 becomes the escapes of JSON, which read_json restores
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n",
            encoding="utf-8",
            errors="backslashreplace",
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


def read_text(path: Path) -> str:
    """A text in UTF-8, UTF-16 or, as a Korean Excel saves it, cp949; says so where it is not UTF-8.

    Raises UserError if it cannot be read or is none of these.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp949"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if encoding != "utf-8-sig":
                say(f"{path}: is not UTF-8, read as {encoding}")
            return text
    raise UserError(f"{path}: is not UTF-8, UTF-16 or cp949; save it as CSV in UTF-8")


def disguised(start: bytes) -> str | None:
    """What a file is that was to be a photo or weights, by its first bytes; None: not known."""
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the file; fetch that by 'git lfs pull'"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page in place of the file; download it again"
    return None


def read_csv(path: Path, columns: list[str]) -> "pandas.DataFrame":  # noqa: F821
    """A csv of text columns; UserError if it cannot be read or lacks one of `columns`.

    Encodings as in read_text; where the header has no comma, tabs or semicolons separate (Excel).
    Empty rows at the end are left out.
    """
    import pandas as pd

    text = read_text(path)
    header = text.partition("\n")[0]
    separator = next((mark for mark in ",\t;" if mark in header), ",")
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        ).fillna("")
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as CSV ({first_line(error)})") from None
    # pandas would take the first column for names of the rows
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path}: its rows have more fields than its first line")
    for column in columns:
        if column not in frame:
            there = ", ".join(map(str, frame.columns))
            raise UserError(f"{path}: has no column {column!r}; its columns are {there}")
    filled = (frame != "").any(axis=1)
    return frame[filled[::-1].cummax()[::-1]]
