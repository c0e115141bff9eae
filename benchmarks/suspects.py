"""Measure how many wrong labels `prepare.py suspects` finds in the sample set.

    python benchmarks/suspects.py --seed 0      320 people, 10 minutes of a core

A file of corrections gives some people the other gender and some photos another mask state, and
`train.py --folds` trains on that. The result is the share of the changed labels among the first of
those ranked.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402


def parse_args() -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--people", type=int, default=320)
    p.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[96, 128],
        metavar=("W", "H"),
        help="photo size in pixels",
    )
    p.add_argument(
        "--wrong",
        type=float,
        default=0.03,
        help="share of people, and of photos, with a wrong label",
    )
    p.add_argument("--first", type=float, default=0.06, help="share of the ranked labels to search")
    p.add_argument("--folds", type=int, default=4)
    p.add_argument(
        "--seed", type=int, default=0, help="seed for the changed labels and for training"
    )
    p.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="work in this folder and keep it (default: a temporary one)",
    )
    p.add_argument(
        "flags",
        nargs="*",
        metavar="-- FLAGS",
        help="flags of the training, instead of --recipe sample",
    )
    return p.parse_args()


def main(args) -> int:
    if args.keep and args.keep.exists():
        raise UserError(f"--keep {args.keep}: exists already; give a new folder")
    if args.keep:
        return measure(args, args.keep)
    with tempfile.TemporaryDirectory() as work:
        return measure(args, Path(work))


def far_age(age: int) -> int:
    """An age of another band, 20 years or more from `age`."""
    return 60 if age < 40 else 22


def measure(args, work: Path) -> int:
    import numpy as np
    import pandas as pd

    import dataset
    from core import labels

    def script(name, *arguments):
        subprocess.run(
            [sys.executable, ROOT / name, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    script(
        "prepare.py",
        "sample",
        work / "sample",
        "--people",
        args.people,
        "--eval_people",
        2,
        "--size",
        *args.size,
    )
    frame = dataset.read_train(work / "sample" / "train")
    generator = np.random.default_rng(args.seed)
    people = frame.drop_duplicates("person")
    people = people.iloc[generator.permutation(len(people))[: round(args.wrong * len(people))]]
    photos = frame.iloc[generator.permutation(len(frame))[: round(args.wrong * len(frame))]]
    other = (photos["mask"] + generator.integers(1, 3, len(photos))) % 3
    genders = people.assign(
        field="gender", value=[labels.GENDERS[1 - gender] for gender in people["gender"]], photo=""
    )
    masks = photos.assign(field="mask", value=[labels.MASKS[mask] for mask in other])
    people = frame.drop_duplicates("person")
    people = people.iloc[generator.permutation(len(people))[: round(args.wrong * len(people))]]
    ages = people.assign(field="age", value=people["age"].map(far_age), photo="")
    changed = pd.concat([genders, ages, masks])[["person", "field", "value", "photo"]]
    changed.to_csv(work / "changed.csv", index=False)
    script(
        "train.py",
        "--data_dir",
        work / "sample" / "train",
        "--model_dir",
        work,
        "--name",
        "run",
        "--seed",
        args.seed,
        "--corrections",
        work / "changed.csv",
        "--folds",
        args.folds,
        "--report",
        "no",
        "--logger",
        "csv",
        *(args.flags or ["--recipe", "sample"]),
    )
    script("prepare.py", "suspects", work / "run", "--output", work / "suspects")

    ranked = pd.read_csv(work / "suspects" / "suspects.csv", dtype=str, keep_default_na=False)
    for field, what in (("gender", "people"), ("age", "people"), ("mask", "photos")):
        of = ranked[ranked["field"] == field]
        wrong = set(map(tuple, changed[changed["field"] == field][["person", "photo"]].to_numpy()))
        first = set(map(tuple, of[["person", "photo"]].to_numpy()[: round(args.first * len(of))]))
        suspect = of[of["suspect"] == "True"]
        called = set(map(tuple, suspect[["person", "photo"]].to_numpy()))
        found = len(wrong & first)
        print(
            f"{field:6}  {len(wrong)} of {len(of)} {what} have a wrong label: {found} "
            f"({found / len(wrong):.0%}) among the first {len(first)} ranked; {len(called)} are "
            f"called suspect, {len(wrong & called)} of them correctly"
        )
    return 0


if __name__ == "__main__":
    run(main, parse_args())
