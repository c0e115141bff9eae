"""What is wrong with a data folder; nothing is changed."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError
from core.files import atomic, digest_of_file, read_csv
from core.labels import GENDERS, MASK_OF_STEM, MAX_AGE
from core.listing import (
    NOT_A_FORMAT,
    NOT_DESCENDED,
    images_folder,
    is_junk,
    is_photo,
    is_utf8,
    list_of,
    listing,
    readable,
    scan,
)
from core.people import parse_person
from core.photo import ORIENTATION, PhotoError, load_photo, open_photo
from core.processes import cores

NEAR = 4  # of 64 bits of the perceptual hash: photos that differ in fewer look the same
COLUMNS = ("file", "severity", "finding", "detail")


class Findings:
    """Rows of file, severity, finding, detail.

    severity: "error" stops or spoils a training or an inference, "warning" is worth a look.
    """

    def __init__(self):
        self.rows = []

    def error(self, file, finding: str, detail: str = "") -> None:
        self.rows.append((readable(str(file)), "error", finding, detail))

    def warning(self, file, finding: str, detail: str = "") -> None:
        self.rows.append((readable(str(file)), "warning", finding, detail))

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)


def audit(folder: Path, progress=lambda items, total: items) -> tuple[pd.DataFrame, dict]:
    """All findings in a train or eval folder as a frame, and counts for the summary.

    `progress(photos, total)` wraps the iterator over photos. Raises UserError if there is no photo.
    """
    images = images_folder(folder)
    findings = Findings()
    entries = _without_junk(images, findings)
    people = [images / entry.name for entry in entries if entry.is_dir()]
    named = any(parse_person(readable(person.name)) for person in people)
    if named or (people and not any(is_photo(entry.name) for entry in entries)):
        photos = [photo for person in people for photo in photos_of(person, findings)]
        check_people(folder, images, people, findings)
        for entry in entries:
            if entry.is_file() and entry.name != "train.csv":
                findings.warning(entry.path, "extra", "a file among the folders of people")
    else:
        people = []
        photos = _photos_among(entries, findings)
        check_list(folder, images, photos, findings)
    if not photos:
        raise UserError(
            f"{images}: holds no photos; give a train folder (folders of people) or an eval folder"
        )
    facts = list(progress(_look_at_all(photos), len(photos)))
    check_photos(facts, findings)
    check_duplicates([fact for fact in facts if "phash" in fact], bool(people), findings)
    of_person = Counter(Counter(photo.parent for photo in photos).values()) if people else {}
    sizes = Counter(fact["size"] for fact in facts if "size" in fact)
    counts = {"people": len(people), "photos": len(photos), "of_person": of_person, "sizes": sizes}
    return findings.frame(), counts


# ---------------------------------------------------------------------------- names and lists
def _without_junk(folder: Path, findings: Findings) -> list:
    for name in sorted(entry.name for entry in scan(folder) if is_junk(entry.name)):
        findings.warning(folder / name, "junk")
    return listing(folder)


def _photos_among(entries, findings: Findings) -> list[Path]:
    photos = []
    for entry in entries:
        if entry.is_dir():
            findings.warning(entry.path, "extra", NOT_DESCENDED)
        elif is_photo(entry.name):
            photos.append(Path(entry.path))
        elif entry.name not in ("info.csv", "train.csv"):
            findings.warning(entry.path, "extra", NOT_A_FORMAT)
    return photos


def photos_of(person: Path, findings: Findings) -> list[Path]:
    """The known photos of one person; what else is in the folder, and what is not, is a finding."""
    found = {}
    try:
        entries = _without_junk(person, findings)
    except UserError as error:
        findings.error(person, "unreadable", str(error))
        return []
    for entry in entries:
        path = person / entry.name
        stem = path.stem.lower()
        if entry.is_dir() or not is_photo(entry.name) or stem not in MASK_OF_STEM:
            detail = "not a photo named mask1..mask5, incorrect_mask or normal"
            findings.warning(path, "extra", detail)
        elif stem in found:
            findings.error(path, "twice", f"the same photo as {found[stem].name}")
        else:
            found[stem] = path
    for stem in MASK_OF_STEM:
        if stem not in found:
            detail = f"{len(found)} of {len(MASK_OF_STEM)} photos are there"
            findings.warning(person / stem, "missing", detail)
    return list(found.values())


def check_people(folder: Path, images: Path, people: list[Path], findings: Findings) -> None:
    """Folder names, train.csv, and the two against each other."""
    named = {readable(person.name): parse_person(readable(person.name)) for person in people}
    ids = Counter(fields["id"] for fields in named.values() if fields)
    for person, (name, fields) in zip(people, named.items(), strict=False):
        if not is_utf8(person.name):
            findings.error(images / name, "name", "not UTF-8; convert it with convmv")
        if not fields:
            detail = f"not <id>_<male or female>_<race>_<age up to {MAX_AGE}>"
            findings.error(images / name, "name", detail)
        elif ids[fields["id"]] > 1:
            detail = f"{ids[fields['id']]} people are {fields['id']}"
            findings.warning(
                images / name, "shared id", f"{detail}; corrections must name the folder"
            )
        elif not 10 <= fields["age"] <= 90:
            findings.warning(images / name, "age", f"{fields['age']} years is rare")
    table = list_of(folder, "train.csv")
    if table is None:
        detail = "labels are read from the folders' names"
        findings.warning(folder / "train.csv", "missing", detail)
        return
    try:
        rows = read_csv(table, ["id", "gender", "race", "age", "path"])
    except UserError as error:
        findings.error(table, "csv", str(error))
        return
    rows["path"] = rows["path"].map(readable)
    for number, row in enumerate(rows.to_dict("records"), start=2):
        check_row(row, named, images, f"{table.name}, row {number}", findings)
    for path in rows["path"][rows["path"].duplicated()].unique():
        findings.error(images / path, "twice", f"in {table.name}")
    for name in sorted(set(named) - set(rows["path"])):
        findings.error(images / name, "extra", f"not in {table.name}")


def check_row(row: dict, named: dict, images: Path, where: str, findings: Findings) -> None:
    """One row of train.csv against the folder that it names."""
    person, fields = images / row["path"], named.get(row["path"])
    if row["gender"].lower() not in GENDERS:
        findings.error(person, "gender", f"{where}: {row['gender']!r}")
    if not row["age"].isdecimal() or int(row["age"]) > MAX_AGE:
        findings.error(person, "age", f"{where}: {row['age']!r}")
    if row["path"] not in named:
        findings.error(person, "missing", f"{where} names a folder that is not there")
    elif fields:
        by_name = (fields["id"], GENDERS[fields["gender"]], str(fields["age"]))
        by_row = (readable(row["id"]), row["gender"].lower(), row["age"])
        if by_name != by_row:
            findings.error(person, "disagreement", f"{where} says {', '.join(by_row)}")


def check_list(folder: Path, images: Path, photos: list[Path], findings: Findings) -> None:
    """info.csv of an eval folder against its photos."""
    table = list_of(folder, "info.csv")
    if table is None:
        return
    try:
        ids = read_csv(table, ["ImageID"])["ImageID"]
    except UserError as error:
        findings.error(table, "csv", str(error))
        return
    listed = set(map(readable, ids))
    there = {readable(photo.name) for photo in photos}
    for name in sorted(listed - there):
        if not (images / name[:200]).is_file():  # in a subfolder
            findings.error(images / name[:200], "missing", f"in {table.name}, not in the folder")
    for name in sorted(there - listed):
        findings.warning(images / name, "extra", f"not in {table.name}: it is not predicted")
    for name in ids[ids.duplicated()].unique():
        findings.error(images / name, "twice", f"in {table.name}")


# ---------------------------------------------------------------------------- photos
def _look_at_all(photos: list[Path]):
    if len(photos) < 200:  # not worth the start of processes
        yield from map(look, photos)
        return
    with ProcessPoolExecutor(cores()) as pool:
        yield from pool.map(look, photos, chunksize=16)


def look(path: Path) -> dict:
    """Facts of one photo, or why it cannot be read.

    size, mode and orientation as stored, digest of its bytes, perceptual hash of it upright.
    """
    import imagehash
    from PIL import Image

    fact = {"path": path}
    try:
        with open_photo(path) as photo:
            fact |= {"size": photo.size, "mode": photo.mode, "orientation": 1}
            try:
                fact["orientation"] = photo.getexif().get(ORIENTATION, 1)
            except Exception:  # broken EXIF, which spoils no pixels
                fact["mode"] += ", broken EXIF"
        small = Image.fromarray(load_photo(path, (64, 64)))
    except PhotoError as error:
        return fact | {"error": error.reason}
    bits = imagehash.phash(small).hash.ravel()
    return fact | {"digest": digest_of_file(path), "phash": int(np.packbits(bits).view(">u8")[0])}


def check_photos(facts: list[dict], findings: Findings) -> None:
    """Findings on photos by themselves."""
    sizes = Counter(fact["size"] for fact in facts if "size" in fact)
    width, height = sizes.most_common(1)[0][0] if sizes else (0, 0)
    for fact in facts:
        path = fact["path"]
        if "error" in fact:
            findings.error(path, "unreadable", fact["error"])
            continue
        if fact["size"] != (width, height):
            detail = f"{fact['size'][0]} x {fact['size'][1]}, others {width} x {height}"
            findings.warning(path, "size", detail)
        if fact["orientation"] != 1:
            detail = f"orientation {fact['orientation']}; it is turned upright when it is read"
            findings.warning(path, "rotated", detail)
        if fact["mode"] != "RGB":
            detail = f"{fact['mode']}; it is converted to RGB when it is read"
            findings.warning(path, "mode", detail)


def check_duplicates(facts: list[dict], of_people: bool, findings: Findings) -> None:
    """Findings on photos that are alike."""
    by_digest = {}
    for fact in facts:
        path = fact["path"]
        first = by_digest.setdefault(fact["digest"], path)
        if first is not path:
            of_another = of_people and first.parent != path.parent
            add = findings.error if of_another else findings.warning
            add(path, "duplicate", f"the same bytes as {first}")
    if not of_people:
        return
    owner = pd.factorize(np.array([str(fact["path"].parent) for fact in facts], object))[0]
    for a, b, bits in alike(np.array([fact["phash"] for fact in facts], np.uint64), owner):
        if facts[a]["digest"] != facts[b]["digest"]:
            detail = f"{bits} of 64 bits from {facts[a]['path']}, of another person"
            findings.warning(facts[b]["path"], "near-duplicate", detail)


def alike(hashes: np.ndarray, owner: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, second, bits that differ) of pairs of different owners within NEAR bits.

    hashes: (N,) uint64.
    """
    pairs = []
    for first in range(len(hashes) - 1):
        bits = np.bitwise_count(hashes[first + 1 :] ^ hashes[first])
        for offset in np.flatnonzero((bits <= NEAR) & (owner[first + 1 :] != owner[first])):
            pairs.append((first, first + 1 + int(offset), int(bits[offset])))
    return pairs


def write_findings(findings: pd.DataFrame, path: Path) -> None:
    """Write audit.csv, atomically."""
    with atomic(path) as temporary:
        findings.to_csv(temporary, index=False)
