"""Accuracy of recipes on one train folder, by the public scripts: train, predict, score.

    python benchmarks/accuracy.py --data_dir D/train --eval_dir D/eval --labels D/eval_labels.csv \\
        --recipes plain winners_lr default best --seeds 3 --output accuracy.csv -- \\
        --model mobilenetv2_100

Trainings use everybody (`--val_ratio 0`) and are scored on other people, whose labels are read when
a run is over. With `--folds K` only the train folder is read: scores are out of fold, and each
recipe is compared with the first one by a paired bootstrap over people. Flags after `--` go to
every training. Rows are written as they finish; a table that was stopped continues.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core import metrics  # noqa: E402
from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.processes import cores  # noqa: E402
from prediction.submission import read_submission  # noqa: E402
from prediction.tables import read_predictions  # noqa: E402

# name -> the flags of its training. plain is a competent baseline: cross-entropy with smoothing
# 0.1, AdamW 1e-3, cosine with warm-up, light augmentation, all layers trained.
RECIPES = {
    "plain": "--resize 224 224 --crop 448 336 --criterion label_smoothing --head joint --freeze 0 "
    "--ema 0 --mixup 0 --half_face 0 --layer_decay 1 --augmentation mild --batch_size 32 "
    "--optimizer AdamW --lr 1e-3 --drop 0 --offsets no --tta",
    "winners": "--recipe winners --resize 224 224",
    "winners_lr": "--recipe winners --resize 224 224 --lr 1e-3 --scheduler cosine --warmup 1",
    "default": "",
    "best": "--recipe best",
}
# name -> (recipe, N): the mean of N trainings with other seeds.
AVERAGES = {"default3": ("default", 3)}
SCORES = ["macro_f1", "accuracy", "mask", "gender", "age"]


def parse_args() -> argparse.Namespace:
    own, common = sys.argv[1:], []
    if "--" in own:
        own, common = own[: own.index("--")], own[own.index("--") + 1 :]
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--data_dir", required=True, help="train folder")
    p.add_argument("--eval_dir", nargs="+", default=[], help="folders of photos of other people")
    p.add_argument(
        "--labels",
        nargs="+",
        default=[],
        type=Path,
        metavar="CSV",
        help="labels of each --eval_dir: columns ImageID,ans and, for intervals, person",
    )
    p.add_argument(
        "--recipes",
        nargs="+",
        default=["plain", "winners_lr", "default"],
        metavar="NAME[=FLAGS]",
        help="names from this file, or NAME=FLAGS for a new one; the first is the reference",
    )
    p.add_argument("--seeds", type=int, default=1, help="runs of each recipe, with seeds 0, 1, ...")
    p.add_argument("--folds", type=int, help="score out of fold, over K folds of the people")
    p.add_argument("--jobs", type=int, default=1, help="concurrent trainings")
    p.add_argument(
        "--output",
        type=Path,
        default=Path("accuracy.csv"),
        help="CSV of scores; run folders are beside it, in a folder of the same stem",
    )
    args = p.parse_args(own)
    args.common, args.work = common, args.output.with_suffix("")
    return args


def main(args) -> int:
    if (not args.folds and not args.eval_dir) or len(args.eval_dir) != len(args.labels):
        raise UserError("give --eval_dir and as many --labels, or --folds")
    for wish in args.recipes:
        name, equals, flags = wish.partition("=")
        if equals:
            RECIPES[name] = flags
        elif name not in RECIPES | AVERAGES:
            known = ", ".join(RECIPES | AVERAGES)
            raise UserError(f"no recipe {name!r}; there are {known}, or write NAME='FLAGS'")
    names = [wish.partition("=")[0] for wish in args.recipes]
    wanted = [(name, seed) for seed in range(args.seeds) for name in names]
    tables, rows = {}, []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {}  # each training once, though several recipes may share it
        for name, seed in wanted:
            for member in members(name, seed):
                running[member] = running.get(member) or pool.submit(train, *member, args)
        try:
            for name, seed in wanted:
                runs = [run_name(*member, args) for member in members(name, seed)]
                seconds = sum(running[member].result() for member in members(name, seed))
                for scored_on, table in predictions(name, seed, runs, args):
                    scores = metrics.score(table["label"].to_numpy(), table["ans"].to_numpy())
                    row = {"recipe": name, "seed": seed, "scored_on": scored_on} | scores
                    rows.append(row | {"old": f1_of_old(table), "seconds": seconds})
                    tables.setdefault((scored_on, name), []).append(table)
                    print(f"{name}, seed {seed}, {scored_on}: {scores['macro_f1']:.4f}", flush=True)
                pd.DataFrame(rows).round(4).to_csv(args.output, index=False)
        finally:
            pool.shutdown(cancel_futures=True)
    for scored_on in dict.fromkeys(row["scored_on"] for row in rows):
        print(f"\n{scored_on}")
        print_table([row for row in rows if row["scored_on"] == scored_on])
        print_differences({name: tables[scored_on, name] for name in names})
    return 0


def members(name: str, seed: int) -> list[tuple[str, int]]:
    """The trainings of a recipe and their seeds: of an average of three 0, 1, 2, then 3, 4, 5."""
    training, count = AVERAGES.get(name, (name, 1))
    return [(training, count * seed + number) for number in range(count)]


def later_wins(words: list[str]) -> list[str]:
    """Flags and their values without those that are given again later."""
    flags, flag = {}, None
    for word in words:
        if word.startswith("--"):
            flag = word
            flags[flag] = []
        flags.setdefault(flag, []).append(word)
    return [word for values in flags.values() for word in values]


def run_name(training: str, seed: int, args) -> str:
    return f"{training}-{'oof' if args.folds else 'all'}-seed{seed}"


def train(training: str, seed: int, args) -> float:
    """Train, or continue, one run with all its folds: the seconds spent in its epochs."""
    name = run_name(training, seed, args)
    own = {
        "--data_dir": [args.data_dir],
        "--model_dir": [args.work],
        "--name": [name],
        "--seed": [seed],
        "--resume": ["auto"],
        "--check_photos": ["no"],
        "--logger": ["csv"],
        "--report": ["no"],
    }
    own |= {"--folds": [args.folds]} if args.folds else {"--val_ratio": [0]}
    words = [*args.common, *RECIPES[training].split()]
    words += [str(word) for flag, values in own.items() for word in (flag, *values)]
    script("train.py", *later_wins(words), threads=max(1, cores() // args.jobs))
    epochs = [pd.read_csv(file) for file in (args.work / name).rglob("metrics.csv")]
    return float(pd.concat(epochs)["seconds"].sum())


def predictions(name: str, seed: int, runs: list[str], args):
    """Yield (scored on, frame with label, ans and, where known, person)."""
    if args.folds:
        yield "out of fold", out_of_fold(runs, args)
        return
    for number, (eval_dir, labels) in enumerate(zip(args.eval_dir, args.labels, strict=True)):
        title, folder = f"{name}-seed{seed}-{number}", args.work / "predictions"
        words = ["--model_dir", args.work, "--name", *runs, "--data_dir", eval_dir]
        words += ["--output_dir", folder, "--output_name", title, "--overwrite"]
        script("inference.py", *words)
        frame = pd.read_csv(labels, dtype={"ImageID": str}).rename(columns={"ans": "label"})
        predicted = read_submission(folder / f"{title}.csv")
        yield eval_dir, frame.merge(predicted, on="ImageID", validate="one_to_one")


def out_of_fold(runs: list[str], args) -> pd.DataFrame:
    """Person, path, label and ans of every photo, by the mean of the runs' probabilities."""
    tables = [
        read_predictions(args.work / name)[0].sort_values("path", ignore_index=True)
        for name in runs
    ]
    columns = [column for column in tables[0] if column[0] == "p" and column[1:].isdecimal()]
    mean = np.mean([table[columns].to_numpy() for table in tables], axis=0)
    return tables[0][["person", "path", "label"]].assign(ans=mean.argmax(axis=1))


def f1_of_old(table) -> float:
    """Mean F1 of the six classes of people of 60 and over."""
    f1 = metrics.per_class_f1(table["label"].to_numpy(), table["ans"].to_numpy())
    return float(np.nanmean(f1[2::3]))


def script(name, *arguments, threads=None) -> None:
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, ROOT / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | limit)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        words = " ".join(map(str, arguments))
        raise UserError(f"{name} {words} ended with {done.returncode}: {last}")


def print_table(rows) -> None:
    columns = ("recipe", "macro-F1", "mean (sd)", "F1, old", "accuracy", "mask / gender / age", "s")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, of_recipe in pd.DataFrame(rows).groupby("recipe", sort=False):
        mean = of_recipe[[*SCORES, "old", "seconds"]].mean()
        sd = f"{of_recipe['macro_f1'].std():.4f}" if len(of_recipe) > 1 else "one run"
        cells = [
            name,
            ", ".join(f"{value:.4f}" for value in of_recipe["macro_f1"]),
            f"{mean['macro_f1']:.4f} ({sd})",
            f"{mean['old']:.3f}",
            f"{mean['accuracy']:.3f}",
            " / ".join(f"{mean[attribute]:.3f}" for attribute in SCORES[2:]),
            f"{mean['seconds']:.0f}",
        ]
        print("| " + " | ".join(cells) + " |")


def print_differences(tables: dict[str, list[pd.DataFrame]]) -> None:
    """Each recipe against the first, all seeds pooled, people resampled."""
    pooled = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    (first, reference), *others = pooled.items()
    if "person" not in reference:
        return
    labels, person = reference["label"].to_numpy(), reference["person"]
    for name, table in others:
        ans = table["ans"].to_numpy(), reference["ans"].to_numpy()
        result = metrics.paired_bootstrap(labels, *ans, person)
        print(
            f"{name} - {first}: {result['difference']:+.4f} (95% {result['low']:+.4f} to "
            f"{result['high']:+.4f}; better in {result['share']:.1%} of 1,000 resamples)"
        )


if __name__ == "__main__":
    run(main, parse_args())
