"""What people look at: a run, submissions side by side, a data folder, the score of a CSV against known answers."""

import argparse
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, run
from reporting.compare import compare
from reporting.data import data
from reporting.run import run_report
from reporting.score import score

EXAMPLES = """\
examples:
  python report.py run swin
  python report.py compare output/*.csv --data_dir /data/eval
  python report.py data /data/train
  python report.py score output/swin.csv sample/eval_answers.csv
  python report.py score output/swin.csv answers.csv --json score.json
"""


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name, summary, description, function):
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=EXAMPLES,
            formatter_class=HelpFormatter,
        )
        command.set_defaults(main=function)
        return command

    command = add_command(
        "run",
        "a page on one run: curves, confusion, calibration, mistakes",
        "One self-contained HTML page, and its pictures, on what a run did on people it did not train on.",
        run_report,
    )
    command.add_argument("name", metavar="NAME", help="the run, or its folder")
    command.add_argument(
        "--model_dir", metavar="DIR", help="where runs are (default: SM_MODEL_DIR, else ./model)"
    )
    command.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="where the page goes (default: the run's folder report)",
    )
    command.add_argument("--photos", type=int, default=24, metavar="N", help="mistakes shown")

    command = add_command(
        "compare",
        "two or more submissions side by side",
        "Where submissions agree, which classes flow from one to another, and the photos they disagree on.",
        compare,
    )
    command.add_argument("csv", metavar="CSV", nargs="+", type=Path, help="answers, ImageID,ans")
    command.add_argument(
        "--answers",
        metavar="FILE",
        type=Path,
        help="the truth, for the score of each and of their vote",
    )
    command.add_argument(
        "--data_dir",
        metavar="DIR",
        help="the folder that was answered, to show photos from (default: SM_CHANNEL_EVAL)",
    )
    command.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("output/compare"),
        help="where the page goes",
    )
    command.add_argument("--photos", type=int, default=24, metavar="N", help="photos shown")

    command = add_command(
        "data",
        "a page on a train folder: people, classes, photos",
        "People by gender and age, classes, sizes and colours of photos, and some photos of each class.",
        data,
    )
    command.add_argument("data_dir", metavar="DIR", help="train folder")
    command.add_argument(
        "--corrections", metavar="FILE", type=Path, help="applied to the labels first"
    )
    command.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("output/data"),
        help="where the page goes",
    )
    command.add_argument(
        "--photos", type=int, default=6, metavar="N", help="photos shown of each class"
    )

    command = commands.add_parser(
        "score",
        help="macro-F1 and accuracies of a CSV whose answers are known",
        formatter_class=HelpFormatter,
        description="Macro-F1, accuracy and the accuracy of each attribute, rows matched by ImageID.",
        epilog=EXAMPLES,
    )
    command.add_argument(
        "output", metavar="OUTPUT.csv", type=Path, help="the answers to score, ImageID,ans"
    )
    command.add_argument("answers", metavar="ANSWERS.csv", type=Path, help="the truth, ImageID,ans")
    command.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write the scores here, and the F1 of every class",
    )
    command.set_defaults(main=score)
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.main, ARGS)
