"""What is done to data before training: draw a sample set, audit a folder, rank suspect labels, remove backgrounds, crop faces."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, run
from core.errors import UserError
from core.faces import CROP_MARGIN
from core.files import read_json
from core.folders import DRAWN_MARK, existing_folder
from core.processes import cores


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(prog="prepare.py", formatter_class=HelpFormatter, description=__doc__)
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
    c.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[192, 256],
        metavar=("W", "H"),
        help="of the photos, pixels",
    )
    c.add_argument("--processes", type=int, help="that draw at once (default: one a core)")
    c.set_defaults(command=sample)

    def add_command(name, summary, description, example, function):
        c = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=HelpFormatter,
        )
        c.set_defaults(command=function)
        return c

    c = add_command(
        "audit",
        "find what is wrong with a train or eval folder",
        "Read every photo and list of a folder and report what is wrong: missing, extra, junk, unreadable, mis-sized, turned, "
        "not RGB, duplicate, csv and folders that disagree. Exit status 1 when something would break training.",
        "python prepare.py audit /data/train --output findings.csv",
        audit,
    )
    c.add_argument("folder", type=Path, metavar="DIR", help="train or eval folder")
    c.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("output/audit.csv"),
        help="every finding: file, severity, finding, detail",
    )

    c = add_command(
        "suspects",
        "rank labels that are probably wrong",
        "Rank the labels that out-of-fold predictions contradict, by confident learning; writes a draft of corrections and a "
        "page to judge them by eye, which exports the accepted ones.",
        "python prepare.py suspects model/swin5    after train.py --folds 5",
        suspects,
    )
    c.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders of one data set and split; several are averaged",
    )
    c.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: the first run's folder suspects)",
    )
    c.add_argument("--show", type=int, default=200, metavar="N", help="rows on the page")

    c = add_command(
        "background",
        "remove backgrounds into another folder",
        "Photos with their backgrounds removed, by rembg, into OUT, in the same layout. An interrupted job goes on.",
        "python prepare.py background /data/train /data/train-plain",
        background,
    )
    c.add_argument("folder", type=Path, metavar="DIR")
    c.add_argument("out", type=Path, metavar="OUT")
    c.add_argument("--model", default="u2net_human_seg", help="of rembg, fetched once")
    c.add_argument(
        "--model_file",
        type=Path,
        metavar="FILE",
        help="a file instead: ONNX of U2-Net's (320 x 320) or ISNet's (1024) kind",
    )
    c.add_argument(
        "--colour",
        type=int,
        nargs=3,
        default=[255, 255, 255],
        metavar=("R", "G", "B"),
        help="of the new background, 0 to 255",
    )

    c = add_command(
        "crop",
        "crop faces into another folder",
        "The face of every photo with a margin, found by YuNet, into OUT, in the same layout; without a face, the "
        "winners' centre crop. The boxes are in OUT/journal.csv. An interrupted job goes on.",
        "python prepare.py crop /data/train /data/faces",
        crop,
    )
    c.add_argument("folder", type=Path, metavar="DIR")
    c.add_argument("out", type=Path, metavar="OUT")
    c.add_argument(
        "--model_file",
        type=Path,
        metavar="FILE",
        help="another version of YuNet (default: the one that comes with the toolkit)",
    )
    c.add_argument(
        "--margin", type=float, default=CROP_MARGIN, help="on each side, in heights of the face"
    )
    return p.parse_args(arguments)


def bar(total, done=0, description="", unit="photo"):
    """A function that wraps an iterator in a progress bar; silent where standard error is no terminal."""
    from tqdm import tqdm

    return lambda items: tqdm(
        items,
        description,
        total,
        initial=done,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )


def needs(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{package} is not installed; 'pip install -r requirements.txt'")


def audit(args) -> int:
    """Print a summary, write every finding; 1 if one would break training."""
    from preparation.audit import audit, write_findings

    needs("imagehash")
    findings, counts = audit(
        existing_folder(args.folder, "DIR"),
        lambda photos, total: bar(total, description="reading")(photos),
    )
    people = f"{counts['people']:,} people, " if counts["people"] else ""
    sizes = ", ".join(
        f"{width} x {height} ({count:,})"
        for (width, height), count in counts["sizes"].most_common(3)
    )
    print(
        f"{args.folder}: {people}{counts['photos']:,} photos; width x height: {sizes or 'none could be read'}"
    )
    if people:
        print(
            "  photos a person: "
            + ", ".join(
                f"{photos} ({n:,})"
                for photos, n in sorted(counts["of_person"].items(), reverse=True)
            )
        )
    for (severity, finding), rows in sorted(
        findings.groupby(["severity", "finding"]), key=lambda item: (item[0][0], -len(item[1]))
    ):
        first = rows.iloc[0]
        print(
            f"  {severity:8} {finding:15} {len(rows):6,}   first {first['file']}{': ' if first['detail'] else ''}{first['detail']}"
        )
    errors = int((findings["severity"] == "error").sum())
    write_findings(findings, args.output)
    print(f"{errors:,} errors, {len(findings) - errors:,} warnings; all in {args.output}")
    return int(errors > 0)


def suspects(args) -> int:
    """Write suspects.csv, corrections.csv and index.html; print how many there are."""
    needs("cleanlab")
    from core.files import atomic
    from preparation.suspects import draft, predictions_of, rank, write_page

    output = args.output or args.runs[0] / "suspects"
    ranked = rank(predictions_of(args.runs))
    corrections = draft(ranked)
    for name, table in (("suspects.csv", ranked), ("corrections.csv", corrections)):
        with atomic(output / name) as temporary:
            table.to_csv(temporary, index=False)
    write_page(
        ranked[ranked["suspect"]].sort_values("score").head(args.show), output / "index.html"
    )
    for field, rows in ranked.groupby("field", sort=False):
        print(f"{field:7} {int(rows['suspect'].sum()):5,} of {len(rows):,} labels are suspect")
    print(
        f"wrote {output / 'index.html'} to judge them by eye; all labels ranked in suspects.csv, a draft in corrections.csv"
    )
    return 0


def background(args) -> int:
    from preparation.images import background_remover, convert

    if not all(0 <= value <= 255 for value in args.colour):
        raise UserError(
            f"--colour {' '.join(map(str, args.colour))}: give three numbers from 0 to 255"
        )
    source = existing_folder(args.folder, "DIR")
    change = background_remover(args.model, args.model_file, tuple(args.colour))
    settings = {
        "job": "background",
        "model": str(args.model_file or args.model),
        "colour": args.colour,
    }
    return tell(convert(source, args.out, settings, change, working), args.out)


def crop(args) -> int:
    from preparation.images import convert, face_cropper

    if not 0 <= args.margin <= 5:
        raise UserError(f"--margin {args.margin}: give a number from 0 to 5")
    source = existing_folder(args.folder, "DIR")
    change = face_cropper(args.model_file, args.margin)
    return tell(
        convert(source, args.out, {"job": "crop", "margin": args.margin}, change, working), args.out
    )


def working(rows, total, done):
    return bar(total, done, "photos")(rows)


def tell(notes: dict, out: Path) -> int:
    print(
        f"wrote {sum(notes.values()):,} photos into {out}: "
        + ", ".join(f"{note} {count:,}" for note, count in sorted(notes.items()))
    )
    return 0


def sample(args) -> int:
    """Draw the sample set, unless it is there already."""
    for key in ("people", "eval_people", "processes"):
        if getattr(args, key) is not None and getattr(args, key) < 1:
            raise UserError(f"--{key} {getattr(args, key)}: give a number above 0")
    if min(args.size) < 16 or args.seed < 0:
        raise UserError(
            "--size takes a width and a height of 16 pixels or more, --seed a number of 0 or above"
        )
    from preparation.sample import draw_sample, settings_of

    wanted = settings_of(args.people, args.eval_people, args.seed, args.size[::-1])
    if (args.out / DRAWN_MARK).is_file() and read_json(args.out / DRAWN_MARK) == wanted:
        print(f"sample set: {args.out} is there already")
        return 0
    if args.out.exists() or args.out.is_symlink():
        raise UserError(
            f"{args.out} is there already and is not this sample set; give another name, or move it away"
        )
    total = args.people + args.eval_people

    draw_sample(
        args.out,
        args.people,
        args.eval_people,
        args.seed,
        tuple(args.size[::-1]),
        args.processes or cores(),
        bar(total, description="drawing", unit="person"),
    )
    print(
        f"sample set: drew {total} people, seven photos each, into {args.out}: train, eval and, apart, eval_answers.csv"
    )
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.command, ARGS)
