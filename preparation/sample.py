"""The sample set: synthetic faces in the competition's layout, with every trap of the real folders.

The same seed and the same library versions give the same bytes, for any number of processes.
"""

import hashlib
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import write_json
from core.folders import DRAWN_MARK
from core.labels import GENDERS, MASK_OF_STEM, encode
from preparation.synthetic_face import draw_photo, look_of

STEMS = tuple(MASK_OF_STEM)
RACES = ("Asian", "Asian", "Asian", "East Asian")
# every border age of the bands among them
AGES = (19, 24, 28, 29, 30, 33, 38, 44, 49, 55, 58, 59, 60, 63, 68, 74)


@dataclass
class Person:
    """One person: what the folder's name says, and a seed for the look."""

    id: str
    gender: int  # 0 male, 1 female
    race: str
    age: int
    seed: tuple

    @property
    def folder(self) -> str:
        return f"{self.id}_{GENDERS[self.gender]}_{self.race}_{self.age}"


def make_people(count: int, seed: int, part: int) -> list[Person]:
    """`count` people over both genders and all ages in turn.

    One id has a hyphen, and one is shared by two people.
    """
    r = np.random.default_rng((seed, part))
    people = []
    for number in range(count):
        age = AGES[(number * 5 + number // 32 + int(r.integers(3))) % len(AGES)]
        identity = f"{1 + part * 6000 + number:06d}"
        people.append(
            Person(identity, number % 2, RACES[r.integers(len(RACES))], age, (seed, part, number))
        )
    if part == 0 and count >= 4:
        people[1].id += "-1"
        people[3].id = people[2].id  # of another gender, so another folder
    return people


def draw_person(job) -> list[tuple]:
    """Draw all photos of one person; for the eval set, rows of (name, label).

    job: person, folder, size, whether of the eval set.
    """
    person, folder, size, evaluation = job
    look, rows = look_of(person), []
    number = person.seed[2]
    stems = STEMS[:-2] if not evaluation and number == 5 else STEMS  # somebody lacks two photos
    if not evaluation:
        (folder / person.folder).mkdir()
    for index, stem in enumerate(stems):
        state = max(0, index - 4)
        photo = Image.fromarray(draw_photo(look, state, (*person.seed, index), size))
        extension = {3: ".png", 7: ".JPG", 11: ".jpeg", 15: ".PNG"}.get(number % 20, ".jpg")
        if evaluation:
            name = hashlib.sha1(repr((*person.seed, index)).encode()).hexdigest() + extension
            path = folder / name
            rows.append((name, int(encode(state, person.gender, person.age))))
        else:
            path = folder / person.folder / (stem + extension)
        photo.save(path, **({"quality": 90} if extension.lower() != ".png" else {}))
    return rows


def draw_sample(
    out: Path,
    people: int,
    eval_people: int,
    seed: int,
    size: tuple[int, int],
    processes: int,
    progress,
) -> None:
    """Draw the whole set into `out`, which must not exist.

    It is drawn under another name first, so that a set that is there is whole.
    size: (height, width) of the photos; progress: wraps the iterator over people.
    """
    work = out.with_name(out.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "train" / "images").mkdir(parents=True)
        (work / "eval" / "images").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    train, evaluation = make_people(people, seed, 0), make_people(eval_people, seed, 1)
    jobs = [(person, work / "train" / "images", size, False) for person in train]
    jobs += [(person, work / "eval" / "images", size, True) for person in evaluation]
    with ProcessPoolExecutor(processes) as pool:
        rows = [
            row
            for of_person in progress(pool.map(draw_person, jobs, chunksize=2))
            for row in of_person
        ]
    lines = [f"{p.id},{GENDERS[p.gender]},{p.race},{p.age},{p.folder}" for p in train]
    (work / "train" / "train.csv").write_text(
        "\n".join(["id,gender,race,age,path", *lines]) + "\n", encoding="utf-8"
    )
    rows.sort(key=lambda row: row[0][::-1])  # an order of its own, not that of the names
    for path, shown in ((work / "eval" / "info.csv", False), (work / "eval_answers.csv", True)):
        path.write_text(
            "\n".join(["ImageID,ans", *(f"{name},{label if shown else 0}" for name, label in rows)])
            + "\n",
            encoding="utf-8",
        )
    first = work / "train" / "images" / train[0].folder
    for junk in (
        first / "._mask1.jpg",
        first.parent / ".DS_Store",
        work / "eval" / "images" / "Thumbs.db",
    ):
        junk.write_bytes(b"left behind by an operating system")
    write_json(work / DRAWN_MARK, settings_of(people, eval_people, seed, size))
    work.rename(out)


def settings_of(people, eval_people, seed, size) -> dict:
    return {
        "drawn_by": "prepare.py sample",
        "people": people,
        "eval_people": eval_people,
        "seed": seed,
        "size": list(size),
    }
