"""Accuracy of named recipes on one data folder, through the public scripts: train -> infer -> score, several seeds, one table.

    python benchmarks/accuracy.py --data_dir D/train --eval_dir D/eval --answers D/eval_answers.csv \\
        --recipes plain winners winners_lr default --seeds 3 --output accuracy.csv -- --model mobilenetv2_100

Training is on everybody (`--val_ratio 0`); the answers are read once, when a run is over. With `--folds K` nothing is read but
the training folder: the score is out of fold, and every recipe is compared with the first by a paired bootstrap over people.
Flags after `--` go to every training. Rows are written as they finish: a stopped table goes on where it was.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli import HelpFormatter, UserError, run  # noqa: E402

# Each recipe: the flags of its members (one training each), and the ways of inference that are tried on their average: a row each.
PLAIN = "--head joint --freeze 0 --ema 0 --mixup 0 --half_face 0 --layer_decay 1 --augmentation mild --batch_size 32 --lr 1e-3 --drop 0"
RECIPES = {
    # the competent baseline: cross-entropy with smoothing 0.1, AdamW 1e-3, cosine with warm-up, flip, slight affine, colour jitter
    "plain": (["--resize 224 224 --crop 448 336 --criterion label_smoothing " + PLAIN], [""]),
    "winners": (["--recipe winners --resize 224 224"], [""]),
    "winners_lr": (["--recipe winners --resize 224 224 --lr 1e-3 --scheduler cosine --warmup 1"], [""]),
    "default": ([""], ["", "--tta flip"]),
    "default4": (["", "", "", ""], ["", "--tta flip"]),
}
COLUMNS = ("recipe", "seed", "folds", "macro_f1", "accuracy", "mask", "gender", "age", "seconds", "epoch_seconds", "flags")


def parse_args() -> argparse.Namespace:
    own, common = sys.argv[1:], []
    if "--" in own:
        own, common = own[: own.index("--")], own[own.index("--") + 1 :]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--data_dir", required=True, help="train folder")
    p.add_argument("--eval_dir", help="eval folder, of other people")
    p.add_argument("--answers", help="its answers, ImageID,ans")
    p.add_argument("--recipes", nargs="+", default=list(RECIPES), metavar="NAME[=FLAGS]",
                   help="of the list in this file, or a new one with its flags")
    p.add_argument("--seeds", type=int, default=1, help="runs of each recipe, with seeds 0, 1, ...")
    p.add_argument("--folds", type=int, help="score out of fold, over K folds of the training people")
    p.add_argument("--output", default="accuracy.csv", help="the rows; run folders are beside it in a folder of the same stem")
    args = p.parse_args(own)
    args.common = common
    return args


def main(args) -> int:
    if not args.folds and not (args.eval_dir and args.answers):
        raise UserError("give --eval_dir and --answers, or --folds")
    output = Path(args.output)
    rows = list(csv.DictReader(output.open())) if output.is_file() else []
    for seed in range(args.seeds):
        for wish in args.recipes:
            name, _, flags = wish.partition("=")
            if not flags and name not in RECIPES:
                raise UserError(f"no recipe {name!r}; there are {', '.join(RECIPES)}, or write NAME='FLAGS'")
            if any((row["recipe"], row["seed"], row["folds"]) == (name, str(seed), str(args.folds or "")) for row in rows):
                continue
            members, ways = ([flags], [""]) if flags else RECIPES[name]
            for row in run_recipe(name, seed, members, ways, args, output.with_suffix("")):
                rows.append({key: str(value) for key, value in row.items()})
                print(f"{row['recipe']}, seed {seed}: macro-F1 {row['macro_f1']:.4f} in {row['seconds']} s", flush=True)
            with output.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    print_table([row for row in rows if row["folds"] == str(args.folds or "")])
    if args.folds:
        print_differences([wish.partition("=")[0] for wish in args.recipes], args, output.with_suffix(""))
    return 0


def run_recipe(name, seed, members, ways, args, work: Path):
    """Train every member; then, for each way of inference, answer with all of them together and yield the row of scores."""
    folds = ["--folds", str(args.folds)] if args.folds else ["--val_ratio", "0"]
    start, names, epochs = time.perf_counter(), [], []
    for number, flags in enumerate(members):
        run_name = f"{name}-{'oof' if args.folds else 'all'}-seed{seed}" + (f"-{number}" if number else "")
        subprocess.run(["rm", "-rf", work / run_name], check=True)  # an interrupted row begins anew
        script("train.py", "--data_dir", args.data_dir, "--model_dir", work, "--name", run_name, "--seed", 100 * number + seed,
               "--check_photos", "no", "--logger", "csv", "--report", "no", *folds, *args.common, *flags.split())  # fmt: skip
        names.append(run_name)
        epochs += [float(row["seconds"]) for file in sorted((work / run_name).rglob("metrics.csv")) for row in csv.DictReader(file.open())]
    trained = time.perf_counter() - start
    for way in [""] if args.folds else ways:
        start = time.perf_counter()
        if args.folds:
            scores = json.loads((work / names[0] / "config.json").read_text())["scores"]
        else:
            title = names[0] + way.replace(" ", "")
            script("inference.py", "--model_dir", work, "--name", *names, "--output_name", title, "--data_dir", args.eval_dir,
                   "--output_dir", work / "answers", *way.split())  # fmt: skip
            script("report.py", "score", work / "answers" / f"{title}.csv", args.answers, "--json", work / "score.json")
            scores = json.loads((work / "score.json").read_text())
        yield {
            "recipe": f"{name} {way}".strip(), "seed": seed, "folds": args.folds or "",
            **{key: round(scores[key], 4) for key in COLUMNS[3:8]}, "seconds": round(trained + time.perf_counter() - start),
            "epoch_seconds": round(sum(epochs) / len(epochs), 1), "flags": f"{' + '.join(members)} | {way}",
        }  # fmt: skip


def script(name, *arguments) -> None:
    done = subprocess.run([sys.executable, ROOT / name, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{name} {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")


def print_table(rows) -> None:
    import pandas as pd

    table = pd.DataFrame(rows).astype(dict.fromkeys(COLUMNS[3:10], float))
    print("\n| recipe | runs | macro-F1 (sd) | accuracy | mask / gender / age | s a run | s an epoch |\n|---|---|---|---|---|---|---|")
    for name, of_recipe in table.groupby("recipe", sort=False):
        mean, spread = of_recipe[list(COLUMNS[3:10])].mean(), of_recipe["macro_f1"].std(ddof=1) if len(of_recipe) > 1 else float("nan")
        print(f"| {name} | {len(of_recipe)} | {mean['macro_f1']:.4f} ({spread:.4f}) | {mean['accuracy']:.4f} | "
              f"{mean['mask']:.3f} / {mean['gender']:.3f} / {mean['age']:.3f} | {mean['seconds']:.0f} | {mean['epoch_seconds']:.0f} |")


def print_differences(names, args, work: Path) -> None:
    """Out-of-fold answers of the first seed, each recipe against the first one listed, resampled by person."""
    import metrics
    import run_folder

    tables = {name: run_folder.read_predictions(work / f"{name}-oof-seed0")[0].sort_values("path", ignore_index=True) for name in names}
    first = tables[names[0]]
    low, high = metrics.bootstrap(first["label"].to_numpy(), first["ans"].to_numpy(), first["person"])
    print(f"\n{names[0]}: 95 % interval over people {low:.4f} to {high:.4f}")
    for name in names[1:]:
        ans = tables[name]["ans"].to_numpy()
        result = metrics.paired_bootstrap(first["label"].to_numpy(), ans, first["ans"].to_numpy(), first["person"])
        print(f"{name} - {names[0]}: {result['difference']:+.4f} (95 % {result['low']:+.4f} to {result['high']:+.4f}; "
              f"better in {result['share']:.1%} of 1,000 resamples of people)")


if __name__ == "__main__":
    run(main, parse_args())
