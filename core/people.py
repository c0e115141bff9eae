"""Who is in a train folder: a folder of photos a person, and train.csv where there is one."""

from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError
from core.files import read_csv
from core.labels import GENDERS, MAX_AGE
from core.listing import LISTS, LeftOut, images_folder, is_utf8, list_of, listing, readable


def parse_person(folder: str) -> dict | None:
    """`<id>_<gender>_<race>_<age>` -> its fields; None if it is no such name.

    Read from the right, since an id may hold anything.
    """
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


def read_people(folder: Path, recursive: bool = False, left: LeftOut | None = None) -> pd.DataFrame:
    """One row a person, by name, with the `folder` of their photos.

    Labels come from train.csv where there is one, else from the folders' names. Raises UserError
    where csv and folders disagree, a column is missing or a name cannot be read.
    """
    images = images_folder(folder)
    folders = _folders_of_people(images, recursive, left or LeftOut(images))
    table = list_of(folder, "train.csv")
    if table:
        people = _people_from_csv(table, images, set(folders))
    else:
        people = _people_from_names(images, folders)
    return people.assign(folder=people["person"].map(folders))


def _folders_of_people(images: Path, recursive: bool, left: LeftOut) -> dict[str, Path]:
    """The folder of each person; where `recursive`, every folder with a person's name below."""
    folders, groups = {}, [images]
    for group in groups:
        for entry in listing(group):
            name, path = readable(entry.name), group / entry.name
            if not entry.is_dir():
                if name not in LISTS:
                    left.add("files outside the folders of people", path)
            elif recursive and not parse_person(name):
                groups.append(path)
            elif name in folders:
                raise UserError(f"{path}: the same person as {folders[name]}; rename one of them")
            else:
                folders[name] = path
    for path in folders.values():
        if not is_utf8(str(path)):
            raise UserError(
                f"{images}: the name of {readable(path.name)!r} is not UTF-8 (from a zip of a "
                "Korean Windows?); convert it: convmv -r -f cp949 -t utf8 --notest "
                f"{readable(str(images))}"
            )
    return folders


def _people_from_names(images: Path, folders: dict[str, Path]) -> pd.DataFrame:
    people = []
    for name, path in folders.items():
        person = parse_person(name)
        if not person:
            raise UserError(
                f"{path}: not a folder of one person; its name should be "
                "<id>_<gender>_<race>_<age> (--recursive descends into folders of such folders)"
            )
        people.append(person)
    if not people:
        raise UserError(
            f"{images}: holds no folders of people; give the competition's train folder, "
            "or its images folder"
        )
    return pd.DataFrame(people).sort_values("person", ignore_index=True)


def _people_from_csv(table: Path, images: Path, names: set[str]) -> pd.DataFrame:
    frame = read_csv(table, ["id", "gender", "race", "age", "path"])
    frame = frame.rename(columns={"path": "person"})
    frame["person"] = [_folder_name(name, names) for name in frame["person"].map(readable)]
    frame["id"] = frame["id"].map(readable)
    for column in ("id", "gender", "race", "age"):
        frame[column] = frame[column].str.strip()
    frame["age"] = frame["age"].str.removesuffix(".0")  # as pandas writes a column with gaps
    _check_cells(frame, table)
    missing = sorted(set(frame["person"]) - names)
    extra = sorted(names - set(frame["person"]))
    if missing:
        raise UserError(
            f"{table}: {len(missing)} in the csv but not among the folders of {images}, first "
            f"{missing[0]!r}; make them match, or remove the csv to read labels from folder names"
        )
    if extra:
        raise UserError(
            f"{table}: {len(extra)} among the folders but not in the csv of {images}, first "
            f"{extra[0]!r}; make them match, or leave people out by rows person,drop,yes in "
            "--corrections"
        )
    frame["gender"] = frame["gender"].str.lower().map(GENDERS.index)
    frame["age"] = frame["age"].astype(int)
    for row, person in frame.iterrows():
        named = parse_person(person["person"])
        if named and (named["gender"], named["age"]) != (person["gender"], person["age"]):
            raise UserError(
                f"{table}, row {row + 2}: gender or age disagrees with the folder's name "
                f"{person['person']!r}; fix one of them (or leave both and use --corrections)"
            )
    columns = ["person", "id", "gender", "race", "age"]
    return frame.sort_values("person", ignore_index=True)[columns]


def _folder_name(name: str, names: set[str]) -> str:
    """The folder that a csv means by `name`, which may be a path from elsewhere."""
    last = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    return last if name not in names and last in names else name


def _check_cells(frame: pd.DataFrame, table: Path) -> None:
    usable = "cannot be used; genders are male or female, ages whole years"
    ages = pd.to_numeric(frame["age"], errors="coerce")
    for column, good, what in (
        ("gender", frame["gender"].str.lower().isin(GENDERS), usable),
        ("age", frame["age"].str.fullmatch(r"\d{1,3}") & (ages <= MAX_AGE), usable),
        ("person", ~frame["person"].duplicated(), "appears twice"),
    ):
        if not good.all():
            row = int(np.argmin(good))
            name = "path" if column == "person" else column
            raise UserError(f"{table}, row {row + 2}: {name} {frame[column][row]!r} {what}")
