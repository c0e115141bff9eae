"""Files written whole or not at all, and the readers of JSON and CSV."""

import codecs
import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import time
from itertools import count
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
            prefix=f".{path.name[:40]}.", suffix=".part" + path.suffix, dir=path.parent
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


def lock(path: Path, wait: float = 0):
    """Hold the file `path` for this process: the open file, None if another process holds it still
    after `wait` seconds.

    The lock lasts until the file is closed or the process ends, however it does. Not by flock,
    which loader workers would hold for some seconds after a kill. Where a system has no such locks
    (Windows, some network disks) nobody is kept out.
    """
    stream, deadline = Path(path).open("w"), time.monotonic() + wait
    try:
        import fcntl
    except ImportError:
        return stream
    while True:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                stream.close()
                return None
            time.sleep(0.5)
        except OSError:  # no locks on this disk
            return stream
        else:
            return stream


def numbered(path: Path):
    """Yield NAME.x, NAME-2.x, NAME-3.x ... for `path` NAME.x."""
    yield path
    yield from (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(2))


def read_json(path: Path) -> dict:
    """The dictionary in `path`; a UserError if it is missing, broken or something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the settings expected")
    return content


def digest_of_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """A text in UTF-8, UTF-16 or, as a Korean Windows saves it, cp949; says so if it is not UTF-8.

    Raises UserError if it cannot be read or is none of these.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if what := disguised(content[:64]) or next(
        (name for start, name in WORKBOOKS.items() if content.startswith(start)), None
    ):
        raise UserError(f"{path}: cannot be read as text ({what})")
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp949"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if "\0" in text:  # UTF-16 without its mark, UTF-32, what a crash left
                break
            if encoding != "utf-8-sig":
                say(f"{path}: is not UTF-8, read as {encoding}")
            return text
    raise UserError(f"{path}: is not UTF-8, UTF-16 or cp949; save it in UTF-8")


WORKBOOKS = dict.fromkeys(
    (b"PK\3\4", b"\xd0\xcf\x11\xe0"), "an Excel workbook; save it there as CSV in UTF-8"
)
# How files begin that are mistaken for photos, tables or weights.
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer in place of the file; fetch that by "
    "'git lfs pull'",
    b"<!doc": "a web page in place of the file; download it again",
    b"<html": "a web page in place of the file; download it again",
    b"<?xml": "XML, perhaps a server's message; download it again",
    b"<svg": "an SVG drawing",
    b'{"': "JSON, perhaps a server's message; download it again",
    b"%pdf": "a PDF",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"\x89hdf": "HDF5",
    b"\xff\x0a": "JPEG XL; convert it to JPEG",
    b"\0\0\0\x0cjxl ": "JPEG XL; convert it to JPEG",
}


def disguised(start: bytes) -> str | None:
    """What a file is that was to be another, by its first bytes; None: not known."""
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "nothing but zero bytes, what a failed copy leaves"
    if start[4:8] == b"ftyp" and start[8:11] in (b"iso", b"mp4", b"avc", b"M4V", b"qt ", b"3gp"):
        return "a video"
    start = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next((what for sign, what in BEGINNINGS.items() if start.startswith(sign)), None)


def read_csv(path: Path, columns: list[str]) -> "pandas.DataFrame":  # noqa: F821
    """A csv of text columns; UserError if it cannot be read or lacks one of `columns`.

    Encodings as in read_text; where the header has no comma, tabs or semicolons separate (Excel).
    Names of columns match by their letters in any case. Fields and rows that are empty at the end
    are left out.
    """
    text = read_text(path)
    if text[:4].lower() == "sep=":  # tells Excel the separator
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    separator = next((mark for mark in ",\t;" if mark in header), ",")
    try:
        frame = _table(text, separator)
        if frame is None:
            ends = re.compile(rf"[{separator} ]+\r?$", re.MULTILINE)
            frame = _table(ends.sub("", text), separator)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as CSV ({first_line(error)})") from None
    if frame is None:
        raise UserError(
            f"{path}: its rows have more fields than its first line, which names the columns"
        )
    known = {_letters(column): column for column in columns}
    there = [str(column).strip() for column in frame.columns]
    frame.columns = [
        name if name in columns else known.get(_letters(name), name.lower()) for name in there
    ]
    for column in columns:
        count = list(frame.columns).count(column)
        if count != 1:
            what = "several columns" if count else "no column"
            raise UserError(f"{path}: has {what} {column!r}; its columns are {', '.join(there)}")
    filled = (frame != "").any(axis=1)
    return frame[filled[::-1].cummax()[::-1]]


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _table(text: str, separator: str) -> "pandas.DataFrame | None":  # noqa: F821
    """The text as a frame of text; None if some row has more fields than the first line."""
    import pandas as pd

    options = {"sep": separator, "dtype": str, "keep_default_na": False, "skipinitialspace": True}
    try:
        frame = pd.read_csv(io.StringIO(text), **options).fillna("")
    except pd.errors.ParserError as error:
        if "Expected" in str(error):
            return None
        raise
    # pandas would take the first column for names of the rows
    return frame if isinstance(frame.index, pd.RangeIndex) else None
