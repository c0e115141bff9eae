"""Prepare data for training: sample set, audit, suspect labels, backgrounds, face crops."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, add_commands, run
from core.errors import UserError, counted
from core.faces import CROP_MARGIN
from core.files import atomic, read_json
from core.folders import DRAWN_MARK, existing_folder
from core.processes import cores
from core.progress import progress

FOLDER = {"type": Path, "metavar": "DIR", "help": "train or eval folder"}
OUT = {"type": Path, "metavar": "OUT", "help": "folder to make"}
# command -> one line for the list of commands, what it does, examples, flags
# fmt: off
COMMANDS = {
    "sample": (
        "generate a sample set of synthetic faces in the competition's layout",
        "Generate synthetic faces in the competition's layout: OUT/train, OUT/eval and, for "
        "scoring, OUT/eval_answers.csv.",
        ("sample", "/tmp/small --people 24 --eval_people 6 --size 96 128"),
        {"out": OUT,
         "--people": {"type": int, "default": 160, "help": "people in train, seven photos each"},
         "--eval_people": {"type": int, "default": 40, "help": "people in eval, seven photos each"},
         "--seed": {"type": int, "default": 0, "help": "seed for all faces"},
         "--size": {"type": int, "nargs": 2, "metavar": ("W", "H"), "default": [192, 256],
                    "help": "width and height in pixels"},
         "--processes": {"type": int, "help": "number of processes (default: one per core)"}},
    ),
    "audit": (
        "find what is wrong with a train or eval folder",
        "Check every photo and CSV in a folder. Report photos that are missing, extra, unreadable, "
        "duplicate, rotated, not RGB or of another size, junk files, and CSVs that disagree with "
        "the folders. Exit status 1 if something would break training.",
        ("/data/train --output findings.csv",),
        {"folder": FOLDER,
         "--output": {"type": Path, "metavar": "FILE", "default": Path("output/audit.csv"),
                      "help": "CSV of all findings: file, severity, finding, detail"}},
    ),
    "suspects": (
        "rank labels that are probably wrong",
        "Rank the labels that out-of-fold predictions contradict: mask and gender by confident "
        "learning, age by the difference in years. Write a draft of corrections, and a page on "
        "which to accept or reject each and to export the accepted ones.",
        ("model/swin5    after train.py --folds 5", "model/swin5 model/swin5-seed1"),
        {"runs": {"type": Path, "nargs": "+", "metavar": "RUN", "help":
                  "run folders of one data set; seeds are averaged, folds are joined"},
         "--output": {"type": Path, "metavar": "DIR", "help":
                      "folder for the results (default: suspects in the first run folder)"},
         "--show": {"type": int, "default": 200, "metavar": "N",
                    "help": "number of labels on the page"}},
    ),
    "background": (
        "remove backgrounds into another folder",
        "Write the photos with their backgrounds removed (by rembg) into OUT, in the same layout. "
        "Run it again to continue an interrupted job.",
        ("/data/train /data/train-plain",),
        {"folder": FOLDER,
         "out": OUT,
         "--model": {"default": "u2net_human_seg", "help": "a model of rembg, downloaded once"},
         "--model_file": {"type": Path, "metavar": "FILE", "help": "an ONNX file instead, of "
                          "U2-Net (320 x 320) or ISNet (1024 x 1024)"},
         "--colour": {"type": int, "nargs": 3, "metavar": ("R", "G", "B"),
                      "default": [255, 255, 255],
                      "help": "colour of the new background, 0 to 255"}},
    ),
    "crop": (
        "crop faces into another folder",
        "Find the face in every photo by YuNet, crop it with a margin and write it into OUT, in "
        "the same layout; without a face, write the winners' centre crop. The boxes are in "
        "OUT/journal.csv. Run it again to continue an interrupted job.",
        ("/data/train /data/faces",),
        {"folder": FOLDER,
         "out": OUT,
         "--model_file": {"type": Path, "metavar": "FILE", "help": "ONNX file of "
                          "another version of YuNet (default: the one included)"},
         "--margin": {"type": float, "default": CROP_MARGIN,
                      "help": "margin on each side of a face, as a fraction of its height"}},
    ),
}
# fmt: on


def parse_args(arguments=None) -> argparse.Namespace:
    parser = ArgumentParser(prog="prepare.py", formatter_class=HelpFormatter, description=__doc__)
    table = {}
    for name, (summary, description, examples, flags) in COMMANDS.items():
        lines = [f"  python prepare.py {name} {example}" for example in examples]
        table[name] = summary, description, "\n".join(["examples:", *lines]), flags
    add_commands(parser, table)
    return parser.parse_args(arguments)


def needs(package: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{package} is not installed; 'pip install -r requirements.txt'")


def audit(args) -> int:
    """Print a summary, write every finding; 1 if one would break training."""
    needs("imagehash")
    from preparation.audit import audit, write_findings

    folder = existing_folder(args.folder, "DIR")
    findings, counts = audit(folder, lambda photos, n: progress(photos, n, "reading", "photo"))
    people = f"{counts['people']:,} people, " if counts["people"] else ""
    common = counts["sizes"].most_common(3)
    sizes = ", ".join(f"{width} x {height} ({n:,})" for (width, height), n in common)
    print(
        f"{folder}: {people}{counts['photos']:,} photos; "
        f"width x height: {sizes or 'none could be read'}"
    )
    if people:
        of_person = sorted(counts["of_person"].items(), reverse=True)
        print("  photos a person: " + ", ".join(f"{photos} ({n:,})" for photos, n in of_person))
    groups = findings.groupby(["severity", "finding"])
    for (severity, finding), rows in sorted(groups, key=lambda g: (g[0][0], -len(g[1]))):
        first = ": ".join(filter(None, rows.iloc[0][["file", "detail"]]))
        print(f"  {severity:8} {finding:15} {len(rows):6,}   first {first}")
    errors = int((findings["severity"] == "error").sum())
    write_findings(findings, args.output)
    print(f"{errors:,} errors, {len(findings) - errors:,} warnings; all in {args.output}")
    return int(errors > 0)


def suspects(args) -> int:
    """Write suspects.csv, corrections.csv and index.html; print how many there are."""
    needs("cleanlab")
    from preparation.suspects import draft, predictions_of, rank, to_show, write_page

    output = args.output or args.runs[0] / "suspects"
    predictions = predictions_of(args.runs)
    ranked, expected = rank(predictions)
    for name, table in (("suspects.csv", ranked), ("corrections.csv", draft(ranked))):
        with atomic(output / name) as temporary:
            table.to_csv(temporary, index=False)
    write_page(to_show(ranked, args.show), predictions, expected, output / "index.html")
    for field, rows in ranked.groupby("field", sort=False):
        print(
            f"{field:7} {int(rows['suspect'].sum()):5,} of {len(rows):,} labels are suspect, "
            f"{expected[field]} are expected to be wrong"
        )
    print(
        f"wrote {output / 'index.html'} to judge them by eye; all labels ranked in suspects.csv, "
        "a draft in corrections.csv"
    )
    return 0


def background(args) -> int:
    from preparation.images import background_remover, convert

    if not all(0 <= value <= 255 for value in args.colour):
        colour = " ".join(map(str, args.colour))
        raise UserError(f"--colour {colour}: give three numbers from 0 to 255")
    source = existing_folder(args.folder, "DIR")
    change = background_remover(args.model, args.model_file, tuple(args.colour))
    model = str(args.model_file or args.model)
    settings = {"job": "background", "model": model, "colour": args.colour}
    return tell(convert(source, args.out, settings, change, working), args.out)


def crop(args) -> int:
    from preparation.images import convert, face_cropper

    if not 0 <= args.margin <= 5:
        raise UserError(f"--margin {args.margin}: give a number from 0 to 5")
    source = existing_folder(args.folder, "DIR")
    change = face_cropper(args.model_file, args.margin)
    settings = {"job": "crop", "margin": args.margin}
    return tell(convert(source, args.out, settings, change, working), args.out)


def working(rows, total, done):
    return progress(rows, total, "photos", "photo", initial=done)


def tell(notes: dict, out: Path) -> int:
    parts = ", ".join(f"{note} {count:,}" for note, count in sorted(notes.items()))
    print(f"wrote {counted(sum(notes.values()), 'photo')} into {out}: {parts}")
    return 0


def sample(args) -> int:
    """Generate the sample set, unless it exists already."""
    for key in ("people", "eval_people", "processes"):
        if getattr(args, key) is not None and getattr(args, key) < 1:
            raise UserError(f"--{key} {getattr(args, key)}: give a number above 0")
    if min(args.size) < 16 or args.seed < 0:
        raise UserError(
            "--size takes a width and a height of 16 pixels or more, --seed a number of 0 or above"
        )
    from preparation.sample import draw_sample, settings_of

    size = tuple(args.size[::-1])
    wanted = settings_of(args.people, args.eval_people, args.seed, args.size[::-1])
    if (args.out / DRAWN_MARK).is_file() and read_json(args.out / DRAWN_MARK) == wanted:
        print(f"sample set: {args.out} exists already")
        return 0
    if args.out.exists() or args.out.is_symlink():
        raise UserError(
            f"{args.out} exists already and is not this sample set; give another name, or move it "
            "away"
        )
    total = args.people + args.eval_people
    draw_sample(
        args.out,
        args.people,
        args.eval_people,
        args.seed,
        size,
        args.processes or cores(),
        lambda people: progress(people, total, "generating", "person"),
    )
    print(
        f"sample set: {total} people with seven photos each, in {args.out}: train, eval and, for "
        "scoring, eval_answers.csv"
    )
    return 0


if __name__ == "__main__":
    ARGS = parse_args()
    run(globals()[ARGS.command], ARGS)
