"""Labels, people and their photos, corrections, person-level splits and sampling, and the Dataset that serves photos.

A table of photos travels as one pandas frame, a row a photo:
person (folder name), id, gender (0 male, 1 female), race, age (years), photo (stem), mask (0..2), path, label (0..17, official bands).
Pixels (decoding, cropping, augmentation) are in `transforms.py`.
"""

import mmap
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError
from core.files import atomic, read_csv
from core.folders import IMAGE_EXTENSIONS
from core.labels import CLASSES, GENDERS, MASKS, age_band, encode
from core.photo import PhotoError, check_photo, load_photo
from core.processes import cores

MASK_OF_STEM = {**{f"mask{i}": 0 for i in range(1, 6)}, "incorrect_mask": 1, "normal": 2}


EXTENSIONS = {".jpg", ".jpeg", ".png"}


MAX_AGE = 120


# ---------------------------------------------------------------------------- reading people and photos
def is_junk(name: str) -> bool:
    """Files that operating systems leave behind: `._x.jpg`, `.DS_Store`, `Thumbs.db`, `__MACOSX`."""
    return name.startswith((".", "__MACOSX", "@eaDir")) or name.lower() in (
        "thumbs.db",
        "desktop.ini",
    )


def images_folder(folder: Path) -> Path:
    """The folder of photos: `folder`/images if there is one, else `folder` itself."""
    return folder / "images" if (folder / "images").is_dir() else folder


def parse_person(folder: str) -> dict | None:
    """`<id>_<gender>_<race>_<age>` -> its fields, read from the right since an id may hold anything; None if it is no such name."""
    fields = folder.rsplit("_", 3)
    if (
        len(fields) != 4
        or fields[1].lower() not in GENDERS
        or not fields[3].isdecimal()
        or int(fields[3]) > MAX_AGE
    ):
        return None
    return {
        "person": folder,
        "id": fields[0],
        "gender": GENDERS.index(fields[1].lower()),
        "race": fields[2],
        "age": int(fields[3]),
    }


def read_people(folder: Path) -> pd.DataFrame:
    """One row a person (a folder of photos), sorted by folder name, from train.csv where there is one, else from the folders' names.

    Raises UserError where csv and folders disagree, a column is missing or a name cannot be read.
    """
    images = images_folder(folder)
    names = sorted(
        entry.name for entry in os.scandir(images) if entry.is_dir() and not is_junk(entry.name)
    )
    table = next(
        (path for path in (images.parent / "train.csv", images / "train.csv") if path.is_file()),
        None,
    )
    if table:
        return _people_from_csv(table, images, names)
    people = [parse_person(name) for name in names]
    if None in people:
        raise UserError(
            f"{images / names[people.index(None)]}: not a folder of one person; its name should be <id>_<gender>_<race>_<age>"
        )
    if not people:
        raise UserError(
            f"{images}: holds no folders of people; give the competition's train folder, or its images folder"
        )
    return pd.DataFrame(people)


def _people_from_csv(table: Path, images: Path, names: list[str]) -> pd.DataFrame:
    frame = read_csv(table, ["id", "gender", "race", "age", "path"]).rename(
        columns={"path": "person"}
    )
    for column, good in {
        "gender": frame["gender"].str.lower().isin(GENDERS),
        "age": frame["age"].str.fullmatch(r"\d{1,3}")
        & (pd.to_numeric(frame["age"], errors="coerce") <= MAX_AGE),
        "path": ~frame["person"].duplicated(),
    }.items():
        if not good.all():
            row = int(np.argmin(good))
            value = frame["person" if column == "path" else column][row]
            what = (
                "stands twice"
                if column == "path"
                else "cannot be used; genders are male or female, ages whole years"
            )
            raise UserError(f"{table}, row {row + 2}: {column} {value!r} {what}")
    missing = sorted(set(frame["person"]) - set(names))
    extra = sorted(set(names) - set(frame["person"]))
    if missing or extra:
        which, who = (
            ("in the csv but not among the folders", missing)
            if missing
            else ("among the folders but not in the csv", extra)
        )
        raise UserError(
            f"{table}: {len(who)} {which} of {images}, first {who[0]!r}; put csv and folders in agreement, "
            "or take the csv away to read labels from the folders' names"
        )
    frame["gender"] = frame["gender"].str.lower().map(GENDERS.index)
    frame["age"] = frame["age"].astype(int)
    for row, person in frame.iterrows():
        named = parse_person(person["person"])
        if named and (named["gender"], named["age"]) != (person["gender"], person["age"]):
            raise UserError(
                f"{table}, row {row + 2}: gender or age disagrees with the folder's name {person['person']!r}; "
                "mend one of them (or leave both and use --corrections)"
            )
    return frame.sort_values("person", ignore_index=True)[["person", "id", "gender", "race", "age"]]


def read_train(folder: Path, corrections: Path | None = None) -> pd.DataFrame:
    """All photos of the training people, a row each, sorted by person and photo; see the module's head for the columns.

    Raises UserError where the folder, its csv or the corrections cannot be used, or no photo is found.
    """
    folder = Path(folder)
    people = read_people(folder)
    images = images_folder(folder)
    photos = [
        {"person": person, "photo": photo.stem.lower(), "path": str(photo)}
        for person in people["person"]
        for photo in _photos_of(images / person)
    ]
    if not photos:
        raise UserError(
            f"{images}: no photo found in {len(people)} folders; photos are mask1..mask5, incorrect_mask, normal "
            "as jpg, jpeg or png"
        )
    frame = people.merge(pd.DataFrame(photos), on="person", how="inner")
    frame["mask"] = frame["photo"].map(MASK_OF_STEM)
    if corrections:
        frame = apply_corrections(frame, Path(corrections))
    frame["label"] = encode(frame["mask"], frame["gender"], frame["age"])
    return frame


def _photos_of(folder: Path) -> list[Path]:
    """The known photos of one person sorted by stem; UserError if two files claim the same stem."""
    photos = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if not is_junk(entry.name)):
        path = folder / name
        if path.suffix.lower() not in EXTENSIONS or path.stem.lower() not in MASK_OF_STEM:
            continue
        if path.stem.lower() in photos:
            raise UserError(
                f"{path}: the same photo as {photos[path.stem.lower()].name}; keep one of them"
            )
        photos[path.stem.lower()] = path
    return [photos[stem] for stem in sorted(photos)]


def _is_inside(root: Path, name: str) -> bool:
    if not name or len(os.fsencode(name)) > 255 or "\0" in name:
        return False
    try:
        return (root / name).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


def read_eval(folder: Path) -> pd.DataFrame:
    """The photos to answer: columns ImageID, path, in info.csv's order, or every image by name where there is no info.csv.

    Raises UserError for a listed photo that is missing, listed twice or outside the image folder.
    """
    folder = Path(folder)
    images = images_folder(folder)
    table = next(
        (path for path in (folder / "info.csv", images.parent / "info.csv") if path.is_file()), None
    )
    if table is None:
        names = sorted(
            entry.name
            for entry in os.scandir(images)
            if entry.is_file()
            and not is_junk(entry.name)
            and Path(entry.name).suffix.lower() in IMAGE_EXTENSIONS
        )
        if not names:
            raise UserError(f"{images}: holds no info.csv and no images")
        return pd.DataFrame({"ImageID": names, "path": [str(images / name) for name in names]})
    frame = read_csv(table, ["ImageID"])
    if frame.empty:
        raise UserError(f"{table}: lists no photos")
    if frame["ImageID"].duplicated().any():
        row = int(frame["ImageID"].duplicated().argmax())
        raise UserError(f"{table}, row {row + 2}: ImageID {frame['ImageID'][row]!r} stands twice")
    root = images.resolve()
    paths = []
    for row, name in enumerate(frame["ImageID"]):
        if not _is_inside(root, name):
            raise UserError(
                f"{table}, row {row + 2}: ImageID {name[:80]!r} is not a file name inside {images}"
            )
        if not (images / name).is_file():
            raise UserError(f"{table}, row {row + 2}: {images / name} does not exist")
        paths.append(str(images / name))
    return pd.DataFrame({"ImageID": frame["ImageID"], "path": paths})


# ---------------------------------------------------------------------------- corrections
def apply_corrections(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Apply corrections.csv (`person,field,value[,photo]`) to the frame of photos; files stay as they are.

    `person` is a folder, or an id that only one folder has. `field` is gender, age or mask (mask needs `photo`).
    Raises UserError for an impossible value, an ambiguous id or a contradiction; rows that match nobody are counted in one warning.
    """
    frame = frame.copy()
    rows = read_csv(path, ["person", "field", "value"])
    people_of_id = frame.groupby("id")["person"].unique()
    done, unmatched = {}, 0
    for number, row in enumerate(rows.to_dict("records"), start=2):
        who, field, photo = row["person"], row["field"], Path(row.get("photo", "")).stem.lower()
        value = _corrected_value(field, row["value"], f"{path}, row {number}")
        if (field == "mask") != bool(photo):
            raise UserError(
                f"{path}, row {number}: a mask row names its photo (mask1..mask5, incorrect_mask, normal), other rows none"
            )
        selected = frame["person"] == who
        if not selected.any() and who in people_of_id:
            if len(people_of_id[who]) > 1:
                raise UserError(
                    f"{path}, row {number}: id {who!r} belongs to {' and '.join(people_of_id[who])}; name the folder"
                )
            selected = frame["id"] == who
        if photo:
            selected &= frame["photo"] == photo
        if not selected.any():
            unmatched += 1
            continue
        key = (frame["person"][selected].iloc[0], field, photo)
        if done.setdefault(key, value) != value:
            raise UserError(
                f"{path}, row {number}: contradicts an earlier row on the {field} of {who!r}"
            )
        frame.loc[selected, field] = value
    if unmatched:
        print(f"warning: {path}: {unmatched} of {len(rows)} corrections match nobody here")
    return frame


def _corrected_value(field: str, value: str, where: str) -> int:
    if field == "gender" and value.lower() in GENDERS:
        return GENDERS.index(value.lower())
    if field == "age" and value.isdecimal() and int(value) <= MAX_AGE:
        return int(value)
    if field == "mask" and value.lower() in MASKS:
        return MASKS.index(value.lower())
    if field == "mask" and value.lower() in MASK_OF_STEM:
        return MASK_OF_STEM[value.lower()]
    known = {
        "gender": "male or female",
        "age": f"0 to {MAX_AGE} years",
        "mask": "wear, incorrect or not wear",
    }
    if field not in known:
        raise UserError(f"{where}: field {field!r} is unknown; it is gender, age or mask")
    raise UserError(f"{where}: {field} cannot be {value!r}; it is {known[field]}")


# ---------------------------------------------------------------------------- splits: always whole people
def split_people(
    frame: pd.DataFrame, seed: int, folds: int | None = None, val_ratio: float = 0.2
) -> pd.DataFrame:
    """Columns person, fold: the fold in which a person is validated, -1 for people who always train.

    Stratified by gender and official age band; depends on the people's names, labels and the seed alone.
    Raises UserError if a part would be empty.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    people = frame.drop_duplicates("person").sort_values("person", ignore_index=True)
    strata = people["gender"] * 3 + age_band(people["age"])
    fold = np.full(len(people), -1)
    if folds:
        if not 2 <= folds <= len(people):
            raise UserError(f"--folds {folds}: give 2 to {len(people)}, the number of people")
        # scikit-learn wants as many people as folds in at least one stratum; with fewer people than that, strata cannot be kept
        strata = strata if strata.value_counts().max() >= folds else np.zeros(len(people))
        with warnings.catch_warnings(
            action="ignore", category=UserWarning
        ):  # that the smallest stratum has fewer people than folds
            for number, (_, held_out) in enumerate(
                StratifiedKFold(folds, shuffle=True, random_state=seed).split(people, strata)
            ):
                fold[held_out] = number
    elif val_ratio:
        count = round(len(people) * val_ratio)
        if not 0 < count < len(people):
            raise UserError(
                f"--val_ratio {val_ratio}: leaves {count} of {len(people)} people to validate on; "
                "give a ratio that leaves some on both sides, or 0 to train on everybody"
            )
        sizes = strata.map(strata.value_counts())
        strata = strata.where(
            sizes >= 2, strata.mode()[0]
        )  # a stratum of one person cannot be shared out
        stratify = (
            strata
            if min(count, len(people) - count) >= strata.nunique() and len(people) >= 4
            else None
        )
        _, held_out = train_test_split(
            np.arange(len(people)), test_size=count, random_state=seed, stratify=stratify
        )
        fold[held_out] = 0
    return pd.DataFrame({"person": people["person"], "fold": fold})


def write_split(split: pd.DataFrame, path: Path) -> None:
    with atomic(path) as temporary:
        split.to_csv(temporary, index=False)


def read_split(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """A split written earlier, for the people of `frame`; UserError if it does not know them all."""
    split = read_csv(path, ["person", "fold"])
    if not split["fold"].str.fullmatch(r"-1|\d+").all() or split["person"].duplicated().any():
        raise UserError(
            f"{path}: not a split; it has one row a person, and a fold number or -1 in each"
        )
    unknown = sorted(set(frame["person"]) - set(split["person"]))
    if unknown:
        raise UserError(
            f"{path}: does not know {len(unknown)} people of this data set, first {unknown[0]!r}; "
            "take another split or leave --split out"
        )
    split["fold"] = split["fold"].astype(int)
    return split[split["person"].isin(set(frame["person"]))].reset_index(drop=True)


# ---------------------------------------------------------------------------- sampling
SAMPLING = ("shuffle", "weighted", "balanced")


def sampling_weights(labels: np.ndarray, policy: str) -> np.ndarray | None:
    """Chance of each photo in an epoch: None (every photo once), "weighted" (1 / sqrt of its class's count), "balanced" (1 / count).

    Square-root sampling: Mahajan et al. 2018, https://arxiv.org/abs/1805.00932; balanced: Kang et al. 2020, https://arxiv.org/abs/1910.09217.
    """
    if policy == "shuffle":
        return None
    counts = np.bincount(labels, minlength=CLASSES)[labels].astype(float)
    weights = counts ** (-0.5 if policy == "weighted" else -1.0)
    return weights / weights.sum()


def thin(frame: pd.DataFrame, keep: int | None, seed: int) -> pd.DataFrame:
    """Keep at most `keep` of each person's photos with a mask worn properly (never fewer of the rare ones)."""
    if not keep:
        return frame
    order = np.random.default_rng(seed).permutation(len(frame))
    rank = frame.assign(order=order).sort_values("order").groupby(["person", "mask"]).cumcount()
    return frame[(frame["mask"] != 0) | (rank.reindex(frame.index) < keep)].reset_index(drop=True)


class EpochSampler:
    """The order of one epoch, a function of seed and epoch alone: the same for any number of workers, shared out over ranks.

    Every rank gets the same number of photos: the order is filled up from its own beginning to a multiple of `ranks`.
    `start` skips photos that this rank has had already (a resumed epoch).
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
        """(epoch, row, draw) of all photos of this rank, in their order; `draw` counts a row's earlier draws."""
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


# ---------------------------------------------------------------------------- the Dataset
class Photos:
    """Photos by row: `photos[epoch, row]` or `photos[epoch, row, draw]` -> (pixels (H, W, 3) uint8, row).

    Decoded crops are kept in memory where `cache` is true, shared by the workers of one process. The randomness of the
    augmentation is a function of seed, epoch, row and draw (0 if left out). Labels are looked up by row where they are needed: pixels alone travel.
    A photo that cannot be read raises PhotoError or, with `mark_errors`, comes as black pixels under the row -1 - row.
    """

    def __init__(
        self, paths, resize, crop, augmentation=None, seed=0, cache=False, mark_errors=False
    ):
        self.paths, self.resize, self.crop = list(paths), tuple(resize), crop
        self.augmentation, self.seed, self.mark_errors = augmentation, seed, mark_errors
        self.cache = self.cached = None
        if cache and self.paths:
            shape = (len(self.paths), *self.resize, 3)
            # anonymous shared memory: forked workers fill one common cache, and no limit of /dev/shm applies
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
        """A batch: decoded by as many threads as PyTorch may use here; in a worker process that is one."""
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
            self.augmentation.set_random_seed(
                int(np.random.default_rng((self.seed, epoch, row, *draw)).integers(2**31))
            )
            pixels = self.augmentation(image=pixels)["image"]
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
    """Mean and standard deviation of the RGB pixels on 0 to 1, over the photos as the model sees them: std = sqrt(E[x^2] - E[x]^2)."""
    sums = squares = np.zeros(3)
    for path in paths:
        pixels = load_photo(path, resize, crop).reshape(-1, 3) / 255
        sums, squares = sums + pixels.mean(0), squares + (pixels**2).mean(0)
    mean = sums / len(paths)
    return mean.tolist(), np.sqrt(squares / len(paths) - mean**2).tolist()


def check_photos(paths, progress=iter) -> list[PhotoError]:
    """Read every photo to its end and return what cannot be used; `progress` wraps the iterator of results (a progress bar)."""
    with ThreadPoolExecutor(cores()) as pool:
        return [error for error in progress(pool.map(check_photo, paths)) if error]
