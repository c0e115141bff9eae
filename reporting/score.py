"""Scores of a submission whose ground truth is known."""

from pathlib import Path

from core.errors import UserError


def score(args) -> None:
    """Print the scores of `args.output` against `args.answers`; UserError if a photo is not answered, or more than once."""
    from core import metrics

    check_json(args)
    labels, ans, extra = match_answers(args.output, args.answers)
    scores = metrics.score(labels, ans)
    confusion, class_f1 = metrics.confusion(labels, ans), metrics.per_class_f1(labels, ans)
    print(f"{args.output} against {args.answers}: {len(labels):,} photos\n")
    print_scores(scores)
    print()
    print_classes(confusion, class_f1)
    if extra:
        print(f"\nnot scored: {extra}")
    if args.json:
        write_scores(args, len(labels), scores, class_f1)
        print(f"\nscores written to {args.json}")


def check_json(args) -> None:
    """UserError if `--json` would write over a CSV, or over the json that inference.py wrote beside one."""
    taken = {
        path.resolve()
        for csv in (args.output, args.answers)
        for path in (csv, csv.with_suffix(".json"))
    }
    if args.json and args.json.resolve() in taken:
        raise UserError(f"--json {args.json}: belongs to one of the CSVs; give another name")


def match_answers(output: Path, answers: Path):
    """labels (N,), ans (N,) in the order of `answers`, and words on rows of `output` that `answers` does not know (or "").

    Raises UserError naming a few of the photos that `output` misses or repeats: such a file has no score.
    """
    from prediction.submission import few, read_submission

    truth, given = read_submission(answers), read_submission(output, unique=False)
    missing = truth["ImageID"][~truth["ImageID"].isin(given["ImageID"])]
    extra = given["ImageID"][~given["ImageID"].isin(truth["ImageID"])].unique()
    repeated = given["ImageID"][given["ImageID"].duplicated()].unique()
    named = {
        what: f"{len(names):,} {what} ({few(list(names))})" if len(names) else ""
        for what, names in (
            ("missing", missing),
            ("repeated", repeated),
            ("unknown to the answers", extra),
        )
    }
    if len(missing) or len(repeated):
        raise UserError(
            f"{output}: no score, since photos of {answers} are {' and '.join(filter(None, named.values()))}"
        )
    ans = given.set_index("ImageID")["ans"].reindex(truth["ImageID"])
    return truth["ans"].to_numpy(), ans.to_numpy(), named["unknown to the answers"]


def print_scores(scores: dict) -> None:
    """Macro-F1 first, as the leaderboard ranks by it; the attributes' accuracies below the accuracy they make up."""
    print(f"macro-F1  {scores['macro_f1']:.4f}")
    print(f"accuracy  {scores['accuracy']:.4f}")
    for attribute in ("mask", "gender", "age"):
        print(f"  {attribute:7} {scores[attribute]:.4f}")


def print_classes(confusion, class_f1) -> None:
    """A line for every class: photos that are of it, answers that say so, F1."""
    from core.labels import CLASS_NAMES

    print(f"    {'class':22} photos  answers      F1")
    for label, name in enumerate(CLASS_NAMES):
        f1 = (
            f"{class_f1[label]:.4f}" if class_f1[label] >= 0 else "-"
        )  # nan: neither in the truth nor in the answers
        print(
            f"{label:>3} {name:22} {confusion[label].sum():6,} {confusion[:, label].sum():8,} {f1:>7}"
        )


def write_scores(args, photos: int, scores: dict, class_f1) -> None:
    from core.files import write_json
    from core.labels import CLASS_NAMES

    classes = {
        name: None if f1 != f1 else float(f1)
        for name, f1 in zip(CLASS_NAMES, class_f1, strict=True)
    }
    content = {
        "output": str(args.output),
        "answers": str(args.answers),
        "photos": photos,
        **scores,
        "class_f1": classes,
    }
    write_json(args.json, content)
