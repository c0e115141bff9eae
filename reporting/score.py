"""Scores of a submission against known labels."""

from pathlib import Path

import numpy as np

from core import metrics
from core.errors import UserError
from core.files import write_json
from core.labels import ATTRIBUTES, CLASS_NAMES
from prediction.submission import few, read_submission


def main(args) -> int:
    """Print the scores; UserError if a photo has no prediction, or more than one."""
    check_json(args)
    labels, ans, unknown = match(args.submission, args.labels)
    scores, class_f1 = metrics.score(labels, ans), metrics.per_class_f1(labels, ans)
    print(f"{args.submission} against {args.labels}: {len(labels):,} photos\n")
    print_scores(scores)
    print()
    print_classes(metrics.confusion(labels, ans), class_f1)
    if unknown:
        print(f"\nnot scored: {unknown}")
    if args.json:
        files = {"output": str(args.submission), "answers": str(args.labels)}
        f1 = [None if np.isnan(f1) else float(f1) for f1 in class_f1]
        by_class = {"class_f1": dict(zip(CLASS_NAMES, f1, strict=True))}
        write_json(args.json, files | {"photos": len(labels)} | scores | by_class)
        print(f"\nscores written to {args.json}")
    return 0


def check_json(args) -> None:
    """UserError if --json would overwrite a CSV, or the json that inference.py wrote beside one."""
    files = [args.submission, args.labels]
    taken = [path.resolve() for csv in files for path in (csv, csv.with_suffix(".json"))]
    if args.json and args.json.resolve() in taken:
        raise UserError(f"--json {args.json}: belongs to one of the CSVs; give another name")


def match(submission: Path, labels: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """labels (N,), predictions (N,) in the same order, and a note on photos without a label.

    UserError naming a few of the photos that `submission` misses or repeats: it has no score.
    """
    truth, given = read_submission(labels), read_submission(submission, unique=False)
    ids = given["ImageID"]
    faults = {
        "missing": truth["ImageID"][~truth["ImageID"].isin(ids)],
        "repeated": ids[ids.duplicated()].unique(),
        "without a label": ids[~ids.isin(truth["ImageID"])].unique(),
    }
    notes = {
        what: f"{len(names):,} {what} ({few(list(names))})" if len(names) else ""
        for what, names in faults.items()
    }
    if notes["missing"] or notes["repeated"]:
        found = " and ".join(filter(None, notes.values()))
        raise UserError(f"{submission}: cannot be scored against {labels}; photos: {found}")
    ans = given.set_index("ImageID")["ans"].reindex(truth["ImageID"])
    return truth["ans"].to_numpy(), ans.to_numpy(), notes["without a label"]


def print_scores(scores: dict) -> None:
    """Macro-F1 first, as the leaderboard ranks by it; the attributes' accuracies indented."""
    print(f"macro-F1  {scores['macro_f1']:.4f}")
    print(f"accuracy  {scores['accuracy']:.4f}")
    for attribute in ATTRIBUTES:
        print(f"  {attribute:7} {scores[attribute]:.4f}")


def print_classes(confusion, class_f1) -> None:
    """A line for every class: photos with that label, photos predicted as it, F1."""
    print(f"    {'class':22} photos predicted      F1")
    for label, name in enumerate(CLASS_NAMES):
        photos, predicted = confusion[label].sum(), confusion[:, label].sum()
        f1 = "-" if np.isnan(class_f1[label]) else f"{class_f1[label]:.4f}"
        print(f"{label:>3} {name:22} {photos:6,} {predicted:9,} {f1:>7}")
