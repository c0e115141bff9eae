"""What is wrong with a data folder: every finding a row of file, severity, finding, detail. Nothing is changed."""

import csv
import hashlib
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError
from core.files import read_csv
from core.folders import IMAGE_EXTENSIONS
from core.labels import GENDERS
from core.photo import PhotoError, open_photo
from core.processes import cores
from dataset import EXTENSIONS, MASK_OF_STEM, MAX_AGE, images_folder, is_junk, parse_person

NEAR = 4  # of 64 bits of the perceptual hash: photos that differ in fewer look the same


COLUMNS = ("file", "severity", "finding", "detail")


def audit(folder: Path, progress=lambda items, total: items) -> tuple[pd.DataFrame, dict]:
    """All findings in a train or eval folder, and counts for the summary; `progress(photos, total)` wraps the iterator over photos.

    severity: "error" stops or spoils a training or an inference, "warning" is worth a look.
    """
    images = images_folder(folder)
    entries = sorted(os.scandir(images), key=lambda entry: entry.name)
    findings = []

    def add(file, severity, finding, detail=""):
        findings.append((str(file), severity, finding, detail))

    for entry in entries:
        if is_junk(entry.name):
            add(entry.path, "warning", "junk")
    people = [Path(entry.path) for entry in entries if entry.is_dir() and not is_junk(entry.name)]
    if people:
        photos = [photo for person in people for photo in photos_of(person, add)]
        check_people(folder, images, people, add)
        for entry in entries:
            if entry.is_file() and not is_junk(entry.name) and entry.name != "train.csv":
                add(entry.path, "warning", "extra", "a file among the folders of people")
    else:
        photos = [
            Path(entry.path)
            for entry in entries
            if Path(entry.name).suffix.lower() in IMAGE_EXTENSIONS and not is_junk(entry.name)
        ]
        check_list(folder, images, photos, add)
    if not photos:
        raise UserError(
            f"{images}: holds no photos; give a train folder (folders of people) or an eval folder (photos)"
        )

    if len(photos) < 200:  # not worth the start of processes
        facts = list(progress(map(look, photos), len(photos)))
    else:
        with ProcessPoolExecutor(cores()) as pool:
            facts = list(progress(pool.map(look, photos, chunksize=16), len(photos)))
    check_photos(facts, bool(people), add)
    of_person = Counter(Counter(photo.parent for photo in photos).values()) if people else {}
    sizes = Counter(fact["size"] for fact in facts if "size" in fact)
    counts = {"people": len(people), "photos": len(photos), "of_person": of_person, "sizes": sizes}
    return pd.DataFrame(findings, columns=COLUMNS), counts


# ---------------------------------------------------------------------------- names and lists
def photos_of(person: Path, add) -> list[Path]:
    """The known photos of one person; what else is in the folder, and what is not, is a finding."""
    found = {}
    try:
        entries = sorted(os.scandir(person), key=lambda entry: entry.name)
    except OSError as error:
        add(person, "error", "unreadable", error.strerror)
        return []
    for entry in entries:
        path = Path(entry.path)
        if is_junk(entry.name):
            add(path, "warning", "junk")
        elif path.suffix.lower() not in EXTENSIONS or path.stem.lower() not in MASK_OF_STEM:
            add(
                path,
                "warning",
                "extra",
                "not one of mask1..mask5, incorrect_mask, normal as jpg, jpeg or png",
            )
        elif path.stem.lower() in found:
            add(path, "error", "twice", f"the same photo as {found[path.stem.lower()].name}")
        else:
            found[path.stem.lower()] = path
    for stem in MASK_OF_STEM:
        if stem not in found:
            add(
                person / stem,
                "warning",
                "missing",
                f"{len(found)} of {len(MASK_OF_STEM)} photos are there",
            )
    return list(found.values())


def check_people(folder: Path, images: Path, people: list[Path], add) -> None:
    """Folder names, train.csv, and the two against each other."""
    named = {person.name: parse_person(person.name) for person in people}
    ids = Counter(fields["id"] for fields in named.values() if fields)
    for name, fields in named.items():
        if not fields:
            add(
                images / name,
                "error",
                "name",
                f"not <id>_<male or female>_<race>_<age up to {MAX_AGE}>",
            )
        elif ids[fields["id"]] > 1:
            add(
                images / name,
                "warning",
                "shared id",
                f"{ids[fields['id']]} people are {fields['id']}; corrections must name the folder",
            )
        elif not 10 <= fields["age"] <= 90:
            add(images / name, "warning", "age", f"{fields['age']} years is rare")
    table = next(
        (path for path in (images.parent / "train.csv", images / "train.csv") if path.is_file()),
        None,
    )
    if table is None:
        add(folder / "train.csv", "warning", "missing", "labels are read from the folders' names")
        return
    try:
        rows = read_csv(table, ["id", "gender", "race", "age", "path"])
    except UserError as error:
        add(table, "error", "csv", str(error))
        return
    for number, row in enumerate(rows.to_dict("records"), start=2):
        where, fields = images / row["path"], named.get(row["path"])
        if row["gender"].lower() not in GENDERS:
            add(where, "error", "gender", f"{table.name}, row {number}: {row['gender']!r}")
        if not row["age"].isdecimal() or int(row["age"]) > MAX_AGE:
            add(where, "error", "age", f"{table.name}, row {number}: {row['age']!r}")
        if row["path"] not in named:
            add(
                where,
                "error",
                "missing",
                f"{table.name}, row {number} names a folder that is not there",
            )
        elif fields and (fields["id"], GENDERS[fields["gender"]], str(fields["age"])) != (
            row["id"],
            row["gender"].lower(),
            row["age"],
        ):
            add(
                where,
                "error",
                "disagreement",
                f"{table.name}, row {number} says {row['id']}, {row['gender']}, {row['age']}",
            )
    for path in rows["path"][rows["path"].duplicated()].unique():
        add(images / path, "error", "twice", f"in {table.name}")
    for name in sorted(set(named) - set(rows["path"])):
        add(images / name, "error", "extra", f"not in {table.name}")


def check_list(folder: Path, images: Path, photos: list[Path], add) -> None:
    """info.csv of an eval folder against its photos."""
    table = next(
        (path for path in (folder / "info.csv", images.parent / "info.csv") if path.is_file()), None
    )
    if table is None:
        return
    try:
        ids = read_csv(table, ["ImageID"])["ImageID"]
    except UserError as error:
        add(table, "error", "csv", str(error))
        return
    there = {photo.name for photo in photos}
    for name in sorted(set(ids) - there):
        add(images / name[:200], "error", "missing", f"in {table.name}, not in the folder")
    for name in sorted(there - set(ids)):
        add(images / name, "warning", "extra", f"not in {table.name}: it will not be answered")
    for name in ids[ids.duplicated()].unique():
        add(images / name, "error", "twice", f"in {table.name}")


# ---------------------------------------------------------------------------- photos
def look(path: Path) -> dict:
    """Facts of one photo: size, mode, orientation, digest of its bytes, perceptual hash; or why it cannot be read."""
    import imagehash

    fact = {"path": path}
    try:
        with open_photo(path) as photo:
            fact |= {
                "size": photo.size,
                "mode": photo.mode,
                "format": photo.format,
                "orientation": photo.getexif().get(0x0112, 1),
            }
            photo.draft("RGB", (128, 128))  # a JPEG is read to its end at the smallest scale
            small = photo.convert("L")
        bits = imagehash.phash(small).hash.ravel()
        return fact | {
            "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
            "phash": int(np.packbits(bits).view(">u8")[0]),
        }
    except PhotoError as error:
        return fact | {"error": error.reason}
    except Exception as error:  # decoders raise anything on broken bytes
        return fact | {
            "error": "truncated"
            if "truncated" in str(error)
            else "broken: its pixels cannot be decoded"
        }


def check_photos(facts: list[dict], of_people: bool, add) -> None:
    """Findings on photos by themselves, and on photos that are alike."""
    sizes = Counter(fact["size"] for fact in facts if "size" in fact)
    usual = sizes.most_common(1)[0][0] if sizes else None
    for fact in facts:
        if "error" in fact:
            add(fact["path"], "error", "unreadable", fact["error"])
            continue
        if fact["size"] != usual:
            add(
                fact["path"],
                "warning",
                "size",
                f"{fact['size'][0]} x {fact['size'][1]}, others {usual[0]} x {usual[1]}",
            )
        if fact["orientation"] != 1:
            add(
                fact["path"],
                "warning",
                "rotated",
                f"EXIF orientation {fact['orientation']}; it is turned upright when it is read",
            )
        if fact["mode"] != "RGB":
            add(
                fact["path"],
                "warning",
                "mode",
                f"{fact['mode']}; it is converted to RGB when it is read",
            )
    good = [fact for fact in facts if "phash" in fact]
    by_digest = {}
    for fact in good:
        first = by_digest.setdefault(fact["digest"], fact["path"])
        if first is not fact["path"]:
            other = of_people and first.parent != fact["path"].parent
            add(
                fact["path"],
                "error" if other else "warning",
                "duplicate",
                f"the same bytes as {first}",
            )
    if of_people:
        owner = pd.factorize(np.array([str(fact["path"].parent) for fact in good], object))[0]
        for a, b, bits in alike(np.array([fact["phash"] for fact in good], np.uint64), owner):
            if good[a]["digest"] != good[b]["digest"]:
                add(
                    good[b]["path"],
                    "warning",
                    "near-duplicate",
                    f"{bits} of 64 bits from {good[a]['path']}, of another person",
                )


def alike(hashes: np.ndarray, owner: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, second, bits that differ) for all pairs of different owners whose hashes (N,) uint64 differ in at most NEAR bits."""
    pairs = []
    for first in range(len(hashes) - 1):
        bits = np.bitwise_count(hashes[first + 1 :] ^ hashes[first])
        for offset in np.flatnonzero((bits <= NEAR) & (owner[first + 1 :] != owner[first])):
            pairs.append((first, first + 1 + int(offset), int(bits[offset])))
    return pairs


def write_findings(findings: pd.DataFrame, path: Path) -> None:
    from core.files import atomic

    with atomic(path) as temporary:
        findings.to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL)
