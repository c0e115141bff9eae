"""Accuracy of named recipes on one data folder, through the public scripts: train -> infer -> score, several seeds, one table.

    python benchmarks/accuracy.py --data_dir D/train --eval_dir D/eval \\
        --answers D/eval_answers.csv --recipes plain winners winners_lr default \\
        --seeds 3 --output accuracy.csv -- --model mobilenetv2_100

Training is on everybody (`--val_ratio 0`); the answers are read once, when a run is over. With `--folds K` nothing is read but
the training folder: the score is out of fold, and every recipe is compared with the first by a paired bootstrap over people.
Flags after `--` go to every training. Rows are written as they finish, and trainings go on where they were: a stopped table does too.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.processes import cores  # noqa: E402

# The flags of each training.
TRAININGS = {
    # the competent baseline: cross-entropy with smoothing 0.1, AdamW 1e-3, cosine with warm-up, flip, slight affine, colour jitter
    "plain": "--resize 224 224 --crop 448 336 --criterion label_smoothing --head joint --freeze 0 --ema 0 --mixup 0 --half_face 0 "
    "--layer_decay 1 --augmentation mild --batch_size 32 --optimizer AdamW --lr 1e-3 --drop 0 --offsets no --tta",
    "winners": "--recipe winners --resize 224 224",
    "winners_lr": "--recipe winners --resize 224 224 --lr 1e-3 --scheduler cosine --warmup 1",
    "default": "",
}
# Recipes that are the average of several trainings: how many of which, with other seeds.
AVERAGES = {"default3": ("default", 3)}
# Ways of inference that are tried besides the model's own, a row each.
WAYS = {"default": ("", "--tta"), "default3": ("", "--tta")}
SCORES = ("macro_f1", "accuracy", "mask", "gender", "age")
COLUMNS = ("recipe", "seed", "folds", *SCORES, "epoch_seconds", "trainings", "flags")


def parse_args() -> argparse.Namespace:
    own, common = sys.argv[1:], []
    if "--" in own:
        own, common = own[: own.index("--")], own[own.index("--") + 1 :]
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--data_dir", required=True, help="train folder")
    p.add_argument("--eval_dir", help="eval folder, of other people")
    p.add_argument("--answers", help="its answers, ImageID,ans")
    p.add_argument(
        "--recipes",
        nargs="+",
        default=[*TRAININGS, *AVERAGES],
        metavar="NAME[=FLAGS]",
        help="of the list in this file, or a new one with its flags",
    )
    p.add_argument("--seeds", type=int, default=1, help="runs of each recipe, with seeds 0, 1, ...")
    p.add_argument(
        "--folds", type=int, help="score out of fold, over K folds of the training people"
    )
    p.add_argument("--jobs", type=int, default=1, help="trainings at a time, which share the cores")
    p.add_argument(
        "--output",
        default="accuracy.csv",
        help="the rows; run folders are beside it in a folder of the same stem",
    )
    args = p.parse_args(own)
    args.common, args.work = common, Path(args.output).with_suffix("")
    return args


def main(args) -> int:
    if not args.folds and not (args.eval_dir and args.answers):
        raise UserError("give --eval_dir and --answers, or --folds")
    for wish in args.recipes:
        name, equals, flags = wish.partition("=")
        if equals:
            TRAININGS[name] = flags
        elif name not in TRAININGS | AVERAGES:
            raise UserError(
                f"no recipe {name!r}; there are {', '.join(TRAININGS | AVERAGES)}, or write NAME='FLAGS'"
            )
    names = [wish.partition("=")[0] for wish in args.recipes]
    output = Path(args.output)
    rows = list(csv.DictReader(output.open())) if output.is_file() else []
    done = {(row["recipe"].split()[0], row["seed"], row["folds"]) for row in rows}
    wanted = [
        (name, seed)
        for seed in range(args.seeds)
        for name in names
        if (name, str(seed), str(args.folds or "")) not in done
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {}  # each training once, though several recipes may share it
        for name, seed in wanted:
            for member in members(name, seed):
                running[member] = running.get(member) or pool.submit(train, *member, args)
        try:
            for name, seed in wanted:
                seconds = [running[member].result() for member in members(name, seed)]
                for row in score(name, seed, sum(seconds) / len(seconds), args):
                    rows.append({key: str(value) for key, value in row.items()})
                    print(
                        f"{row['recipe']}, seed {seed}: macro-F1 {row['macro_f1']:.4f}", flush=True
                    )
                with output.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)
        finally:
            pool.shutdown(cancel_futures=True)
    print_table(
        [
            row
            for row in rows
            if row["folds"] == str(args.folds or "") and row["recipe"].split()[0] in names
        ]
    )
    if args.folds:
        print_differences(names, args)
    return 0


def members(name: str, seed: int) -> list[tuple[str, int]]:
    """The trainings of a recipe and their seeds: of an average of three the seeds 0, 1, 2, then 3, 4, 5."""
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
    """Train, or go on with, one run (all its folds): its seconds an epoch."""
    name = run_name(training, seed, args)
    folds = ["--folds", args.folds] if args.folds else ["--val_ratio", 0]
    script(
        "train.py",
        "--data_dir",
        args.data_dir,
        "--model_dir",
        args.work,
        "--name",
        name,
        "--seed",
        seed,
        "--resume",
        "auto",
        "--check_photos",
        "no",
        "--logger",
        "csv",
        "--report",
        "no",
        *folds,
        *later_wins([*args.common, *TRAININGS[training].split()]),
        threads=max(1, cores() // args.jobs),
    )
    seconds = [
        float(row["seconds"])
        for file in (args.work / name).rglob("metrics.csv")
        for row in csv.DictReader(file.open())
    ]
    return sum(seconds) / len(seconds)


def score(name: str, seed: int, epoch_seconds: float, args):
    """A row for each way of inference: the answers of all members of the recipe together."""
    runs = [run_name(*member, args) for member in members(name, seed)]
    for way in ("",) if args.folds else WAYS.get(name, ("",)):
        if args.folds:
            from core import metrics

            table = out_of_fold(runs, args)
            scores = metrics.score(table["label"].to_numpy(), table["ans"].to_numpy())
        else:
            title = f"{name}-seed{seed}{way.replace(' ', '')}"
            script(
                "inference.py",
                "--model_dir",
                args.work,
                "--name",
                *runs,
                "--output_name",
                title,
                "--data_dir",
                args.eval_dir,
                "--output_dir",
                args.work / "answers",
                "--overwrite",
                *way.split(),
            )
            script(
                "report.py",
                "score",
                args.work / "answers" / f"{title}.csv",
                args.answers,
                "--json",
                args.work / "score.json",
            )
            scores = json.loads((args.work / "score.json").read_text())
        yield {
            "recipe": f"{name} {way}".strip(),
            "seed": seed,
            "folds": args.folds or "",
            **{key: round(scores[key], 4) for key in SCORES},
            "epoch_seconds": round(epoch_seconds, 1),
            "trainings": len(runs),
            "flags": TRAININGS[AVERAGES.get(name, (name,))[0]],
        }


def out_of_fold(runs: list[str], args):
    """Person, path, label and ans of every photo, in the order of their paths: the mean of the runs' out-of-fold probabilities decides."""
    import numpy as np

    from prediction.tables import read_predictions

    tables = [
        read_predictions(args.work / name)[0].sort_values("path", ignore_index=True)
        for name in runs
    ]
    columns = [column for column in tables[0] if column[0] == "p" and column[1:].isdecimal()]
    mean = np.mean([table[columns].to_numpy() for table in tables], axis=0)
    return tables[0][["person", "path", "label"]].assign(ans=mean.argmax(axis=1))


def script(name, *arguments, threads=None) -> None:
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    done = subprocess.run(
        [sys.executable, ROOT / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | limit,
    )
    if done.returncode:
        raise UserError(
            f"{name} {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        )


def print_table(rows) -> None:
    import pandas as pd

    table = pd.DataFrame(rows).astype(dict.fromkeys([*SCORES, "epoch_seconds"], float))
    print(
        "\n| recipe | runs | macro-F1 (sd) | accuracy | mask / gender / age | s an epoch |\n|---|---|---|---|---|---|"
    )
    for name, of_recipe in table.groupby("recipe", sort=False):
        mean, spread = (
            of_recipe[list(SCORES)].mean(),
            of_recipe["macro_f1"].std(ddof=1) if len(of_recipe) > 1 else float("nan"),
        )
        times = f"{count} x " if (count := int(of_recipe["trainings"].iloc[0])) > 1 else ""
        print(
            f"| {name} | {len(of_recipe)} | {mean['macro_f1']:.4f} ({spread:.4f}) | {mean['accuracy']:.4f} | {mean['mask']:.3f} / "
            f"{mean['gender']:.3f} / {mean['age']:.3f} | {times}{of_recipe['epoch_seconds'].mean():.0f} |"
        )


def print_differences(names, args) -> None:
    """Out-of-fold answers of all seeds pooled, each recipe against the first one listed, resampled by person."""
    import pandas as pd

    from core import metrics

    def pooled(name):
        parts = [
            out_of_fold([run_name(*member, args) for member in members(name, seed)], args)
            for seed in range(args.seeds)
        ]
        return pd.concat(parts, ignore_index=True)

    first = pooled(names[0])
    labels, person = first["label"].to_numpy(), first["person"]
    low, high = metrics.bootstrap(labels, first["ans"].to_numpy(), person)
    print(f"\n{names[0]}: 95 % of resamples of people between {low:.4f} and {high:.4f}")
    for name in names[1:]:
        result = metrics.paired_bootstrap(
            labels, pooled(name)["ans"].to_numpy(), first["ans"].to_numpy(), person
        )
        print(
            f"{name} - {names[0]}: {result['difference']:+.4f} (95 % {result['low']:+.4f} to {result['high']:+.4f}; "
            f"better in {result['share']:.1%} of 1,000 resamples of people)"
        )


if __name__ == "__main__":
    run(main, parse_args())
