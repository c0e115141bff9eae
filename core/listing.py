"""What a folder holds by name: photos, and what is left out. Standard library only."""

import os
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.folders import IMAGE_EXTENSIONS
from core.progress import say

# What operating systems and file servers leave behind, beside names that begin with a dot.
JUNK = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle"),
    *("$recycle.bin", "system volume information", "lost+found"),
}


def is_junk(name: str) -> bool:
    """True for what operating systems leave behind: `._x.jpg`, `.DS_Store`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in JUNK


def is_photo(name: str) -> bool:
    """True for a file name that ends as photos do."""
    return PurePosixPath(name).suffix.lower() in IMAGE_EXTENSIONS


def readable(name: str) -> str:
    """`name` as people read it, by which names are compared.

    Letters are composed (NFC; macOS stores Korean decomposed). Bytes that are not UTF-8 are decoded
    as cp949, in which a Korean Windows packs zip files, else shown as escapes.
    """
    if not is_utf8(name):
        stored = os.fsencode(name)
        try:
            name = stored.decode("cp949")
        except UnicodeDecodeError:
            name = stored.decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def is_utf8(name: str) -> bool:
    """False for a name from the file system whose bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def scan(folder: Path) -> list[os.DirEntry]:
    """The entries of a folder in no order, junk too; UserError if it cannot be read."""
    try:
        return list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from None


def listing(folder: Path) -> list[os.DirEntry]:
    """The entries of a folder by name, without junk; UserError if it cannot be read."""
    entries = [entry for entry in scan(folder) if not is_junk(entry.name)]
    return sorted(entries, key=lambda entry: entry.name)


def walk(folder: Path):
    """The folders below `folder`, itself first, each with its listing; a link is followed once."""
    seen, waiting = set(), [Path(folder)]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        entries = listing(current)
        yield current, entries
        waiting += [Path(entry.path) for entry in reversed(entries) if entry.is_dir()]


class LeftOut:
    """Counts what is left out of a folder, for one warning that names the first of each kind."""

    def __init__(self, folder: Path):
        self.folder, self.counts, self.first = folder, Counter(), {}

    def add(self, what: str, path) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, readable(os.path.relpath(path, self.folder)))

    def __str__(self):
        parts = [f"{what} ({n:,}, first {self.first[what]})" for what, n in self.counts.items()]
        return f"left out {', '.join(parts)}" if parts else ""

    def warn(self) -> None:
        if self.counts:
            say(f"warning: {self.folder}: {self}")


def images_folder(folder: Path) -> Path:
    """The folder of photos: `folder`/images if there is one, else `folder` itself."""
    return folder / "images" if (folder / "images").is_dir() else folder


def list_of(folder: Path, name: str) -> Path | None:
    """train.csv or info.csv of a data folder: beside its images, or among them."""
    images = images_folder(folder)
    candidates = (folder / name, images.parent / name, images / name)
    return next((path for path in candidates if path.is_file()), None)


LISTS = ("train.csv", "info.csv")
NOT_A_FORMAT = "files that are not photos by their names"
NOT_DESCENDED = "subfolders that only --recursive reads"


def photos_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The photos in a folder by name, those below it too where `recursive`; warns of the rest.

    Raises UserError if there is no photo.
    """
    folder, photos = Path(folder), []
    left = LeftOut(folder)
    for current, entries in walk(folder):
        for entry in entries:
            if entry.is_dir():
                if not recursive:
                    left.add(NOT_DESCENDED, entry.path)
            elif not is_photo(entry.name):
                if entry.name not in LISTS:
                    left.add(NOT_A_FORMAT, entry.path)
            elif not entry.is_file():
                left.add("broken links", entry.path)
            else:
                photos.append(current / entry.name)
        if not recursive:
            break
    if not photos:
        reason = f"; {left}" if left.counts else ""
        raise UserError(f"{folder}: holds no photos{reason}")
    left.warn()
    return sorted(photos)


class Names:
    """Finds the files of a folder by names as people read them.

    Where there is none of that name, one that differs in upper and lower case alone, since lists
    are made on Windows and macOS too, or with backslashes; or the only photo of that name where the
    list has no extensions.
    """

    def __init__(self, root: Path):
        self.root, self.folders = root, {}

    def find(self, name: str) -> Path | None:
        """The file `name` below the folder, None if there is none. Links are followed.

        Raises PermissionError where that cannot be known.
        """
        try:
            if (self.root / name).is_file():
                return self.root / name
            path = self.root
            for part in PurePosixPath(name).parts:
                wanted = readable(part).strip()
                names, folded, stems = self._names(path)
                found = names.get(wanted) or folded.get(wanted.casefold()) or stems.get(wanted)
                path = path / (found or part)
            if path.is_file():
                return path
            slashed = name.replace("\\", "/")
            return self.find(slashed) if slashed != name and stays_inside(slashed) else None
        except PermissionError:
            raise
        except OSError:  # too long a name
            return None

    def _names(self, folder: Path) -> tuple[dict[str, str], ...]:
        """The names in a folder by their readable form; in lower case, and those of photos without
        their extension, where that is unique."""
        if folder not in self.folders:
            stored = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
            names = {readable(name).strip(): name for name in stored}
            photos = [name for name in names if is_photo(name)]
            folded = _unique((name.casefold(), names[name]) for name in names)
            stems = _unique((PurePosixPath(name).stem, names[name]) for name in photos)
            self.folders[folder] = names, folded, stems
        return self.folders[folder]


def _unique(pairs) -> dict[str, str]:
    """A dict of the pairs whose key appears once."""
    pairs = list(pairs)
    counts = Counter(key for key, _ in pairs)
    return {key: value for key, value in pairs if counts[key] == 1}


def stays_inside(name: str) -> bool:
    """True for a relative path that cannot leave its folder by `..`; links in it are the user's."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
