"""What is done to data before training: draw a sample set of faces."""

import argparse
import sys
from pathlib import Path

from cli import DRAWN_MARK, HelpFormatter, UserError, cores, read_json, run


def parse_args(arguments=None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="prepare.py", formatter_class=HelpFormatter, description=__doc__)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    c = commands.add_parser(
        "sample",
        help="draw a sample set in the competition's layout",
        formatter_class=HelpFormatter,
        description="Draw faces in the competition's layout: OUT/train, OUT/eval and, apart, OUT/eval_answers.csv.",
        epilog="examples:\n  python prepare.py sample sample\n"
        "  python prepare.py sample /tmp/small --people 24 --eval_people 6 --size 96 128",
    )
    c.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    c.add_argument("--people", type=int, default=160, help="to train on, seven photos each")
    c.add_argument("--eval_people", type=int, default=40, help="to answer, seven photos each")
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--size", type=int, nargs=2, default=[192, 256], metavar=("W", "H"), help="of the photos, pixels")
    c.add_argument("--processes", type=int, help="that draw at once (default: one a core)")
    c.set_defaults(command=sample)
    return p.parse_args(arguments)


def sample(args) -> int:
    """Draw the sample set, unless it is there already."""
    for key in ("people", "eval_people", "processes"):
        if getattr(args, key) is not None and getattr(args, key) < 1:
            raise UserError(f"--{key} {getattr(args, key)}: give a number above 0")
    if min(args.size) < 16 or args.seed < 0:
        raise UserError("--size takes a width and a height of 16 pixels or more, --seed a number of 0 or above")
    from tqdm import tqdm

    from sample import draw_sample, settings_of

    wanted = settings_of(args.people, args.eval_people, args.seed, args.size[::-1])
    if (args.out / DRAWN_MARK).is_file() and read_json(args.out / DRAWN_MARK) == wanted:
        print(f"sample set: {args.out} is there already")
        return 0
    if args.out.exists() or args.out.is_symlink():
        raise UserError(f"{args.out} is there already and is not this sample set; give another name, or move it away")
    total = args.people + args.eval_people

    def bar(items):
        return tqdm(items, "drawing", total, unit="person", leave=False, dynamic_ncols=True, disable=not sys.stderr.isatty())

    draw_sample(args.out, args.people, args.eval_people, args.seed, tuple(args.size[::-1]), args.processes or cores(), bar)
    print(f"sample set: drew {total} people, seven photos each, into {args.out}: train, eval and, apart, eval_answers.csv")
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.command, ARGS)
