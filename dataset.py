"""People and their photos, as pandas frames, and the Dataset that serves pixels.

The frame of training photos has a row a photo: person (folder name), id, gender (0 male, 1 female),
race, age (years), photo (stem), mask (0..2), path, label (0..17, official bands).
Who the people are is read in core/people.py, pixels in core/photo.py, corrections are applied in
core/corrections.py, splits and sampling made in training/split.py.
"""

import mmap
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from core.corrections import apply_corrections
from core.errors import UserError, counted
from core.files import read_csv
from core.labels import MASK_OF_STEM, encode
from core.listing import (
    NOT_A_FORMAT,
    NOT_DESCENDED,
    LeftOut,
    Names,
    images_folder,
    is_photo,
    is_utf8,
    list_of,
    listing,
    photos_in,
    readable,
    stays_inside,
    walk,
)
from core.people import read_people
from core.photo import PhotoError, check_photo, load_photo
from core.processes import cores


# ---------------------------------------------------------------------------- people and photos
def read_train(
    folder: Path, corrections: Path | None = None, recursive: bool = False
) -> pd.DataFrame:
    """All photos of the training people, a row each, by person and photo; columns as above.

    `recursive` finds people and photos in subfolders too. What is left out is counted in one
    warning. Raises UserError where the folder, its csv or the corrections cannot be used, or there
    is no photo.
    """
    folder = Path(folder)
    images = images_folder(folder)
    left = LeftOut(images)
    people = read_people(folder, recursive, left)
    photos = []
    for person, path in zip(people["person"], people["folder"], strict=True):
        of_person = _photos_of(path, recursive, left)
        if not of_person:
            left.add("people without photos", path)
        photos += [
            {"person": person, "photo": stem, "path": str(of_person[stem])} for stem in of_person
        ]
    if not photos:
        raise UserError(
            f"{images}: no photo found in {len(people)} folders; photos are mask1..mask5, "
            f"incorrect_mask, normal as jpg, png, heic...; {left}"
        )
    left.warn()
    frame = people.drop(columns="folder").merge(pd.DataFrame(photos), on="person", how="inner")
    frame["mask"] = frame["photo"].map(MASK_OF_STEM)
    if corrections:
        frame = apply_corrections(frame, Path(corrections))
    frame["label"] = encode(frame["mask"], frame["gender"], frame["age"])
    return frame


def _photos_of(folder: Path, recursive: bool, left: LeftOut) -> dict[str, Path]:
    """The known photos of one person by stem; UserError if two files claim the same stem."""
    photos = {}
    for current, entries in walk(folder):
        for entry in entries:
            path = current / entry.name
            stem = path.stem.lower()
            if entry.is_dir():
                if not recursive:
                    left.add(NOT_DESCENDED, path)
            elif not is_photo(entry.name):
                left.add(NOT_A_FORMAT, path)
            elif stem not in MASK_OF_STEM:
                left.add("photos of other names than mask1..mask5, incorrect_mask, normal", path)
            elif not (entry.is_file() or entry.is_symlink()):  # a broken link is a broken photo
                left.add("pipes and devices", path)
            elif stem in photos:
                raise UserError(f"{path}: the same photo as {photos[stem]}; keep one of them")
            else:
                photos[stem] = path
        if not recursive:
            break
    return dict(sorted(photos.items()))


def read_eval(folder: Path, recursive: bool = False) -> pd.DataFrame:
    """The photos to predict: columns ImageID, path, in info.csv's order.

    Without info.csv every photo of the folder by name, with `recursive` those below it too. Raises
    UserError for a listed photo that is missing, appears twice or has a name outside the folder.
    """
    folder = Path(folder)
    images = images_folder(folder)
    table = list_of(folder, "info.csv")
    if table is None:
        paths = photos_in(images, recursive)
        names = [path.relative_to(images).as_posix() for path in paths]
        names = [name if is_utf8(name) else readable(name) for name in names]
        return pd.DataFrame({"ImageID": names, "path": list(map(str, paths))})
    frame = read_csv(table, ["ImageID"])
    if frame.empty:
        raise UserError(f"{table}: lists no photos")
    if frame["ImageID"].duplicated().any():
        row = int(frame["ImageID"].duplicated().argmax())
        raise UserError(f"{table}, row {row + 2}: ImageID {frame['ImageID'][row]!r} appears twice")
    return pd.DataFrame({"ImageID": frame["ImageID"], "path": _listed(frame, table, images)})


def _listed(frame: pd.DataFrame, table: Path, images: Path) -> list[str]:
    names, above, paths, missing = Names(images), Names(table.parent), [], []
    for row, name in enumerate(frame["ImageID"]):
        if not stays_inside(name):
            raise UserError(
                f"{table}, row {row + 2}: ImageID {name[:80]!r} is not a file name inside {images}"
            )
        path = names.find(name) or above.find(name)  # "images/a.jpg"
        if path is None:
            missing.append((row, name[:200]))
        paths.append(str(path))
    if missing:
        row, name = missing[0]
        photos = counted(len(missing), "listed photo is", "listed photos are")
        raise UserError(
            f"{table}, row {row + 2}: {images / name} does not exist; {photos} missing (of "
            f"{len(paths):,}): add them, or take their rows out of the list"
        )
    left, taken = LeftOut(images), set(paths)
    for entry in listing(images):
        if is_photo(entry.name) and str(images / entry.name) not in taken:
            left.add(f"photos that {table.name} does not list", entry.path)
    left.warn()
    return paths


def without(frame: pd.DataFrame, unreadable: list[PhotoError]) -> pd.DataFrame:
    """The frame without the photos that check_photos found unreadable."""
    bad = {str(error.path) for error in unreadable}
    return frame[~frame["path"].isin(bad)].reset_index(drop=True)


# ---------------------------------------------------------------------------- the Dataset
class EpochSampler:
    """The order of one epoch, a function of seed and epoch alone, divided over ranks.

    Every rank gets the same number of photos: the order is filled up from its own beginning to a
    multiple of `ranks`. `start` skips photos that this rank has had already (a resumed epoch).
    """

    def __init__(self, size, seed=0, weights=None, shuffle=True, rank=0, ranks=1):
        self.size, self.seed, self.weights, self.shuffle = size, seed, weights, shuffle
        self.rank, self.ranks = rank, ranks
        self.length = -(-size // ranks)
        self.epoch = self.start = 0

    def __len__(self):
        return self.length - self.start

    def __iter__(self):
        return iter(self.of_epoch(self.epoch)[self.start :])

    def of_epoch(self, epoch: int) -> list[tuple[int, int, int]]:
        """(epoch, row, draw) of this rank's photos in order; draw: earlier draws of that row."""
        order = np.arange(self.size)
        if self.shuffle:
            generator = np.random.default_rng((self.seed, epoch))
            order = (
                generator.permutation(order)
                if self.weights is None
                else generator.choice(self.size, self.size, p=self.weights)
            )
        order = np.resize(order, self.length * self.ranks)
        draw = pd.Series(order).groupby(order).cumcount().to_numpy()
        mine = slice(self.rank, None, self.ranks)
        pairs = zip(order[mine].tolist(), draw[mine].tolist(), strict=True)
        return [(epoch, row, draw) for row, draw in pairs]


class Photos:
    """Photos by row: `photos[epoch, row]` or `photos[epoch, row, draw]` -> (pixels, row).

    Pixels are (H, W, 3) uint8; labels are looked up by row where they are needed. Decoded crops are
    kept in memory where `cache` is true, shared by the workers of one process. The randomness of
    the augmentation is a function of seed, epoch, row and draw (0 if left out). A photo that cannot
    be read raises PhotoError or, with `mark_errors`, comes as black pixels under the row -1 - row.
    """

    def __init__(
        self, paths, resize, crop, augmentation=None, seed=0, cache=False, mark_errors=False
    ):
        self.paths, self.resize, self.crop = list(paths), tuple(resize), crop
        self.augmentation, self.seed, self.mark_errors = augmentation, seed, mark_errors
        self.cache = self.cached = None
        if cache and self.paths:
            shape = (len(self.paths), *self.resize, 3)
            # anonymous shared memory: forked workers fill one cache, without /dev/shm's limit
            self.cache = np.frombuffer(
                mmap.mmap(-1, max(1, int(np.prod(shape)))), np.uint8
            ).reshape(shape)
            self.cached = np.frombuffer(mmap.mmap(-1, max(1, len(self.paths))), np.bool_)

    def __getstate__(self):  # a worker started afresh instead of forked cannot share the cache
        return {**self.__dict__, "cache": None, "cached": None}

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        return self.finish(key, self.load_or_error(key[1]))

    def __getitems__(self, keys):
        """A batch, decoded by as many threads as PyTorch may use here (one in a loader worker)."""
        from torch import get_num_threads

        rows = [key[1] for key in keys]
        if get_num_threads() == 1 or (self.cached is not None and self.cached[rows].all()):
            return [self[key] for key in keys]
        with ThreadPoolExecutor(get_num_threads()) as pool:
            return [
                self.finish(key, pixels)
                for key, pixels in zip(keys, pool.map(self.load_or_error, rows), strict=True)
            ]

    def finish(self, key, pixels):
        """Augment what load_or_error gave, or raise or mark the error."""
        epoch, row, *draw = key
        if isinstance(pixels, PhotoError):
            if not self.mark_errors:
                raise pixels
            return np.zeros((*self.resize, 3), np.uint8), -1 - row
        if self.augmentation is not None:
            generator = np.random.default_rng((self.seed, epoch, row, *draw))
            pixels = self.augmentation(pixels, generator)
        return pixels, row

    def load_or_error(self, row: int):
        try:
            return self.load(row)
        except PhotoError as error:
            return error

    def load(self, row: int) -> np.ndarray:
        if self.cache is None:
            return load_photo(self.paths[row], self.resize, self.crop)
        if not self.cached[row]:
            self.cache[row] = load_photo(self.paths[row], self.resize, self.crop)
            self.cached[row] = True
        return self.cache[row]


def pixel_statistics(paths, resize, crop) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the RGB pixels, 0 to 1, of the photos as the model sees them.

    std = sqrt(E[x^2] - E[x]^2)
    """
    sums = squares = np.zeros(3)
    for path in paths:
        pixels = load_photo(path, resize, crop).reshape(-1, 3) / 255
        sums, squares = sums + pixels.mean(0), squares + (pixels**2).mean(0)
    mean = sums / len(paths)
    return mean.tolist(), np.sqrt(squares / len(paths) - mean**2).tolist()


def check_photos(paths, progress=iter) -> list[PhotoError]:
    """Read every photo to its end and return what cannot be used.

    `progress` wraps the iterator of results (a progress bar).
    """
    paths = list(paths)
    parts = (paths[start : start + 1000] for start in range(0, len(paths), 1000))
    with ThreadPoolExecutor(cores()) as pool:  # its map makes a job of each item before the first
        results = chain.from_iterable(pool.map(check_photo, part) for part in parts)
        return [error for error in progress(results) if error]
