"""Reports: a page on a run, on several submissions, on a train folder; a submission's score."""

import argparse
from importlib import import_module
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, add_labels, run

EXAMPLES = """\
examples:
  python report.py run swin
  python report.py compare output/*.csv --data_dir /data/eval
  python report.py data /data/train
  python report.py data /data/train --augmentation randaugment
  python report.py score output/swin.csv sample/eval_answers.csv
  python report.py score output/swin.csv labels.csv --json score.json
"""

# command -> one line for the list of commands, and what it does.
COMMANDS = {
    "run": (
        "a page on one run: learning curves, confusion, calibration, mistakes",
        "Write one self-contained HTML page, and its figures as PNGs, on what a run predicted for "
        "the people it did not train on.",
    ),
    "compare": (
        "a page on two or more submissions side by side",
        "Show where submissions agree, how predictions change from one to another, and the photos "
        "they disagree on.",
    ),
    "data": (
        "a page on a train folder: people, classes, photos",
        "Show people by gender and age, classes, sizes and colours of photos, and some photos of "
        "each class.",
    ),
    "score": (
        "macro-F1 and accuracies of a submission whose labels are known",
        "Print macro-F1, accuracy and the accuracy of each attribute; rows are matched by ImageID.",
    ),
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    commands = {}
    for name, (summary, description) in COMMANDS.items():
        commands[name] = subparsers.add_parser(
            name,
            help=summary,
            description=description,
            epilog=EXAMPLES,
            formatter_class=HelpFormatter,
        )
    c = commands["run"]
    c.add_argument("name", metavar="NAME", help="name of the run, or its folder")
    text = "folder that holds the runs (default: SM_MODEL_DIR, else ./model)"
    c.add_argument("--model_dir", metavar="DIR", help=text)
    add_output(c, None, "folder for the page (default: report/ in the run's folder)")
    add_photos(c, 24, "number of mistakes to show")

    c = commands["compare"]
    c.add_argument("csv", metavar="CSV", nargs="+", type=Path, help="submissions (ImageID,ans)")
    add_labels(c, "CSV of the ground truth (ImageID,ans), to score each and their vote")
    text = "eval folder, to show the photos from (default: SM_CHANNEL_EVAL)"
    c.add_argument("--data_dir", metavar="DIR", help=text)
    add_output(c, "output/compare", "folder for the page")
    add_photos(c, 24, "number of photos to show")

    c = commands["data"]
    c.add_argument("data_dir", metavar="DIR", help="train folder")
    text = "CSV of label corrections to apply first"
    c.add_argument("--corrections", metavar="FILE", type=Path, help=text)
    add_output(c, "output/data", "folder for the page")
    add_photos(c, 6, "number of photos to show of each class")
    text = "also show a batch under an augmentation of train.py, by name or file"
    c.add_argument("--augmentation", metavar="NAME|FILE", help=text)

    c = commands["score"]
    c.add_argument("submission", metavar="CSV", type=Path, help="submission (ImageID,ans)")
    c.add_argument("labels", metavar="LABELS", type=Path, help="CSV of the ground truth")
    text = "also write the scores, and the F1 of every class, to this file"
    c.add_argument("--json", metavar="FILE", type=Path, help=text)
    return parser.parse_args(argv)


def add_output(command, default, text) -> None:
    default = default and Path(default)
    command.add_argument("--output", metavar="DIR", type=Path, default=default, help=text)


def add_photos(command, default, text) -> None:
    command.add_argument("--photos", type=int, default=default, metavar="N", help=text)


def main(args) -> int:
    # Only now: importing the report means importing numpy, matplotlib and PyTorch.
    command = import_module(f"reporting.{args.command}").main
    if getattr(args, "augmentation", None):
        from training.augmentation import augmentation

        return command(args, lambda size: augmentation(args.augmentation, size=size))
    return command(args)


if __name__ == "__main__":
    run(main, parse_args())
