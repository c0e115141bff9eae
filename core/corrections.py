"""corrections.csv: labels corrected, people and photos left out, when the data are read."""

from pathlib import Path

import pandas as pd

from core.errors import UserError, counted
from core.files import read_csv
from core.labels import GENDERS, MASK_OF_STEM, MASKS, MAX_AGE
from core.listing import readable
from core.progress import say


def apply_corrections(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Apply corrections.csv (`person,field,value[,photo]`) to the frame of photos, not to files.

    `person` is a folder, or an id that only one folder has. `field` is gender, age, mask (which
    needs `photo`) or drop (leaves the person out or, with `photo`, one photo). A list of nothing
    but drops may have the columns `person,drop[,photo]`. Raises UserError for an impossible value,
    an ambiguous id or a contradiction; rows that match nobody are counted in one warning.
    """
    frame = frame.copy()
    rows = _rows(path)
    people_of_id = frame.groupby("id")["person"].unique()
    dropped = pd.Series(False, frame.index)
    done, unmatched = {}, []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        where = f"{path}, row {index + 2}"
        who, field = readable(row["person"]), row["field"].lower()
        photo = Path(row.get("photo", "")).stem.lower()
        value = _corrected_value(field, row["value"].lower(), where)
        if bool(photo) != (field == "mask") and field != "drop":
            raise UserError(
                f"{where}: a mask row names its photo (mask1..mask5, incorrect_mask, normal), "
                "gender and age rows none"
            )
        selected = _photos_of(who, frame, people_of_id, where)
        if photo:
            selected &= frame["photo"] == photo
        if not selected.any():
            unmatched.append(f"row {index + 2}, {who!r}")
            continue
        key = (frame["person"][selected].iloc[0], field, photo)
        if done.setdefault(key, value) != value:
            raise UserError(f"{where}: contradicts an earlier row on the {field} of {who!r}")
        if field == "drop":
            dropped |= selected
        else:
            frame.loc[selected, field] = value
    if unmatched:
        count = f"{len(unmatched)} of {len(rows)} corrections match nobody here"
        say(f"warning: {path}: {count} (first {unmatched[0]})")
    return _without(frame, dropped, path)


def _rows(path: Path) -> pd.DataFrame:
    rows = read_csv(path, ["person"])
    if "drop" not in rows or {"field", "value"} & set(rows):
        return read_csv(path, ["person", "field", "value"])
    kept = rows["drop"].str.lower().isin(["no", "false", "0"])
    return rows[~kept].assign(field="drop", value=rows["drop"])


def _photos_of(who: str, frame, people_of_id, where: str) -> pd.Series:
    selected = frame["person"] == who
    if selected.any() or who not in people_of_id:
        return selected
    people = people_of_id[who]
    if len(people) > 1:
        raise UserError(f"{where}: id {who!r} belongs to {' and '.join(people)}; name the folder")
    return frame["id"] == who


def _without(frame: pd.DataFrame, dropped: pd.Series, path: Path) -> pd.DataFrame:
    if not dropped.any():
        return frame
    kept = frame[~dropped].reset_index(drop=True)
    people = frame["person"].nunique() - kept["person"].nunique()
    photos, of_whom = counted(dropped.sum(), "photo"), counted(people, "person", "people")
    say(f"{path}: its drop rows leave out {photos}; everything of {of_whom}")
    if kept.empty:
        raise UserError(f"{path}: its drop rows leave no photo")
    return kept


def _corrected_value(field: str, value: str, where: str) -> int:
    if field == "drop" and value in ("yes", "true", "1", ""):
        return 1
    if field == "gender" and value in GENDERS:
        return GENDERS.index(value)
    if field == "age" and value.isdecimal() and int(value) <= MAX_AGE:
        return int(value)
    if field == "mask" and value in MASKS:
        return MASKS.index(value)
    if field == "mask" and value in MASK_OF_STEM:
        return MASK_OF_STEM[value]
    known = {
        "gender": "male or female",
        "age": f"0 to {MAX_AGE} years",
        "mask": "wear, incorrect or not wear",
        "drop": "yes",
    }
    if field not in known:
        raise UserError(f"{where}: field {field!r} is unknown; it is gender, age, mask or drop")
    raise UserError(f"{where}: {field} cannot be {value!r}; it is {known[field]}")
