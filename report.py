"""Reports: a page on a run, on several submissions, on a train folder; a submission's score."""

import argparse
from importlib import import_module
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, add_commands, add_labels, run

EXAMPLES = """\
examples:
  python report.py run swin
  python report.py compare output/*.csv --data_dir /data/eval
  python report.py data /data/train
  python report.py data /data/train --augmentation randaugment
  python report.py score output/swin.csv sample/eval_answers.csv
  python report.py score output/swin.csv labels.csv --json score.json
"""

RUNS = {
    "metavar": "DIR",
    "help": "folder that holds the runs (default: SM_MODEL_DIR, else ./model)",
}


def output(default: str | None, text: str) -> dict:
    return {"metavar": "DIR", "type": Path, "default": default and Path(default), "help": text}


def photos(default: int, text: str) -> dict:
    return {"metavar": "N", "type": int, "default": default, "help": text}


# command -> one line for the list of commands, what it does, flags
# fmt: off
COMMANDS = {
    "run": (
        "a page on one run: learning curves, confusion, calibration, mistakes",
        "Write one self-contained HTML page, and its figures as PNGs, on what a run predicted for "
        "the people it did not train on.",
        {"name": {"metavar": "NAME", "help": "name of the run, or its folder"},
         "--model_dir": RUNS,
         "--output": output(None, "folder for the page (default: report/ in the run's folder)"),
         "--photos": photos(24, "number of mistakes to show")},
    ),
    "compare": (
        "a page on two or more submissions side by side",
        "Show where submissions agree, how predictions change from one to another, and the photos "
        "they disagree on.",
        {"csv": {"metavar": "CSV", "nargs": "+", "type": Path,
                 "help": "submissions (ImageID,ans)"},
         "--data_dir": {"metavar": "DIR", "help":
                        "eval folder, to show the photos from (default: SM_CHANNEL_EVAL)"},
         "--output": output("output/compare", "folder for the page"),
         "--photos": photos(24, "number of photos to show")},
    ),
    "data": (
        "a page on a train folder: people, classes, photos",
        "Show people by gender and age, classes, sizes and colours of photos, and some photos of "
        "each class.",
        {"data_dir": {"metavar": "DIR", "help": "train folder"},
         "--corrections": {"metavar": "FILE", "type": Path,
                           "help": "CSV of label corrections to apply first"},
         "--output": output("output/data", "folder for the page"),
         "--photos": photos(6, "number of photos to show of each class"),
         "--augmentation": {"metavar": "NAME|FILE", "help": "also show a batch under an "
                            "augmentation of train.py, by name or file"}},
    ),
    "score": (
        "macro-F1 and accuracies of a submission whose labels are known",
        "Print macro-F1, accuracy and the accuracy of each attribute; rows are matched by ImageID.",
        {"submission": {"metavar": "CSV", "type": Path, "help": "submission (ImageID,ans)"},
         "labels": {"metavar": "LABELS", "type": Path, "help": "CSV of the ground truth"},
         "--json": {"metavar": "FILE", "type": Path, "help":
                    "also write the scores, and the F1 of every class, to this file"}},
    ),
}
# fmt: on


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    table = {name: (*texts, EXAMPLES, flags) for name, (*texts, flags) in COMMANDS.items()}
    commands = add_commands(parser, table)
    add_labels(
        commands["compare"], "CSV of the ground truth (ImageID,ans), to score each and their vote"
    )
    return parser.parse_args(argv)


def main(args) -> int:
    # Only now: importing the report means importing numpy, matplotlib and PyTorch.
    command = import_module(f"reporting.{args.command}").main
    if getattr(args, "augmentation", None):
        from training.augmentation import augmentation

        return command(args, lambda size: augmentation(args.augmentation, size=size))
    return command(args)


if __name__ == "__main__":
    run(main, parse_args())
