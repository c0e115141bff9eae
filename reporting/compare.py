"""The page on two or more submissions."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from core import metrics
from core.errors import UserError
from core.figures import SHORT, contact_sheet
from core.folders import existing_folder
from core.labels import ATTRIBUTES, CLASSES, decode
from prediction.submission import align, read_sidecar, read_submission
from prediction.voting import cast_votes
from reporting import findings
from reporting.compare_figures import LABELS, agreement_matrix, by_class
from reporting.page import Line, Photo, Section, write_page
from reporting.run_figures import attribute_confusions


@dataclass(frozen=True)
class Submissions:
    """n submissions of the same N photos, and the ground truth where it is known."""

    names: list[str]
    ids: pd.Index  # ImageIDs (N,)
    predictions: np.ndarray  # (n, N)
    validation: list[float | None]  # macro-F1 of each in validation, from the json beside it
    labels: np.ndarray | None  # (N,)


def main(args) -> int:
    if len(args.csv) < 2:
        raise UserError("compare: give two submissions or more")
    submissions = read_submissions(args.csv, args.labels)
    scores = score_all(submissions)
    sentences = summary(submissions, scores)
    print("\n".join(sentences))
    for name, score in scores.items():
        print(f"{name}: macro-F1 {score['macro_f1']:.4f}, accuracy {score['accuracy']:.4f}")

    def sections():
        yield from score_sections(submissions, scores)
        yield from agreement_sections(submissions)
        yield changes_section(submissions)
        yield photo_section(submissions, args.data_dir, args.photos)

    names = submissions.names
    title = " and ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
    print(f"wrote {write_page(args.output, title, sections(), sentences=sentences)}")
    return 0


def read_submissions(files: list[Path], labels: Path | None) -> Submissions:
    """The files in the first one's order of photos; UserError if they hold different photos."""
    first = read_submission(files[0])
    ids = pd.Index(first["ImageID"])

    def aligned(path):
        frame = read_submission(path)
        return frame["ans"].to_numpy()[align(path, frame["ImageID"], ids)]

    return Submissions(
        short_names(files),
        ids,
        np.stack([first["ans"].to_numpy(), *(aligned(path) for path in files[1:])]),
        [read_sidecar(path).get("macro_f1") for path in files],
        aligned(labels) if labels else None,
    )


def short_names(paths: list[Path]) -> list[str]:
    """The stems of the files, with their folders where two are the same."""
    stems = [path.stem for path in paths]
    return [
        path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}/{path.stem}"
        for path in paths
    ]


def score_all(submissions: Submissions) -> dict[str, dict]:
    """Scores by name, those of a hard vote of all last; empty without labels."""
    if submissions.labels is None:
        return {}
    pairs = zip(submissions.names, submissions.predictions, strict=True)
    scores = {name: metrics.score(submissions.labels, ans) for name, ans in pairs}
    if len(submissions.names) > 2:  # a hard vote of two is the first of them
        vote = cast_votes("hard", submissions.predictions)
        scores["their vote"] = metrics.score(submissions.labels, vote)
    return scores


def shares_alike(predictions) -> np.ndarray:
    """(n, n): the share of photos on which each two of n predictions (n, N) are equal."""
    return (predictions[:, None] == predictions[None]).mean(axis=2)


def agreements(submissions: Submissions) -> dict[str, np.ndarray]:
    """shares_alike of the 18 classes and of each attribute."""
    codes = dict(zip(ATTRIBUTES, decode(submissions.predictions), strict=True))
    codes = {"all 18 classes": submissions.predictions, **codes}
    return {name: shares_alike(values) for name, values in codes.items()}


def summary(submissions: Submissions, scores: dict) -> list[str]:
    names, predictions, labels = submissions.names, submissions.predictions, submissions.labels
    overall, *attributes = agreements(submissions).items()
    sentences = []
    for n, name in enumerate(names[1:], start=1):
        parts = ", ".join(f"{attribute} {shares[0, n]:.1%}" for attribute, shares in attributes)
        sentences.append(
            f"{names[0]} and {name} agree on {overall[1][0, n]:.1%} of {len(submissions.ids):,} "
            f"photos: {parts}"
        )
    if labels is not None:
        for name, ans in zip(names[1:], predictions[1:], strict=True):
            sentences += findings.better(names[0], name, predictions[0], ans, labels)
        if "their vote" in scores:
            vote = scores["their vote"]["macro_f1"]
            sentences.append(f"A hard vote of all {len(names)} scores {vote:.4f} macro-F1.")
    elif None not in submissions.validation:
        pairs = zip(names, submissions.validation, strict=True)
        held_out = ", ".join(f"{name} {score:.4f}" for name, score in pairs)
        sentences.append(
            f"Validation macro-F1: {held_out}; comparable only if the same people were held out."
        )
    return sentences


def score_sections(submissions: Submissions, scores: dict):
    if not scores:
        return
    keys = ("macro_f1", "accuracy", *ATTRIBUTES)
    validation = dict(zip(submissions.names, submissions.validation, strict=True))
    rows = []
    for name, score in scores.items():
        held_out = validation.get(name)
        shown = "" if held_out is None else float(held_out)
        rows.append((name, shown, *(score[key] for key in keys)))
    yield Section(
        "Scores",
        "Against the labels. 'Validation' is the macro-F1 of each run on the people it held out.",
        ("submission", "validation", "macro-F1", "accuracy", *ATTRIBUTES),
        rows,
    )
    f1 = [metrics.per_class_f1(submissions.labels, ans) for ans in submissions.predictions]
    yield Section(
        "F1 by class",
        "The rightmost mark is the best submission for the class; a long line is a large "
        "difference.",
        figures=[by_class(np.stack(f1), submissions.names, "F1 by class")],
    )


def agreement_sections(submissions: Submissions):
    names, predictions = submissions.names, submissions.predictions
    yield Section(
        "Agreement",
        "The share of photos with the same prediction. A vote gains most from members that are "
        "good and disagree.",
        figures=[
            agreement_matrix(shares, names, title)
            for title, shares in agreements(submissions).items()
        ],
    )
    shown = dict(zip(names, predictions, strict=True))
    if submissions.labels is not None:
        shown[LABELS] = submissions.labels
    counts = [np.bincount(ans, minlength=CLASSES) for ans in shown.values()]
    yield Section(
        "Predictions by class",
        "Photos predicted as each class. A class that a submission hardly ever predicts lowers its "
        "macro-F1.",
        figures=[by_class(np.stack(counts), list(shown), "photos by predicted class")],
    )
    for name, ans in zip(names[1:4], predictions[1:4], strict=True):
        yield Section(
            f"From {names[0]} to {name}",
            f"Rows are predictions of {names[0]}, columns those of {name} for the same photos; "
            "they agree on the diagonal.",
            figures=attribute_confusions(predictions[0], ans, (name, names[0]), "agreement"),
        )


def changes_section(submissions: Submissions) -> Section:
    name = submissions.names[0]
    header = (f"class in {name}", "other submission", "class there", "photos")
    if submissions.labels is not None:
        header += (f"{name} right", "other right", "neither")
    rows = findings.changes(submissions.names, submissions.predictions, submissions.labels)
    note = f"The most frequent changes from {name} to another submission."
    return Section("Changed predictions", note, header, rows[:30])


def photo_section(submissions: Submissions, data_dir: str | None, count: int) -> Section:
    """The photos that the submissions disagree on most, as photos if they are at hand."""
    predictions, labels = submissions.predictions, submissions.labels
    differing = np.flatnonzero((predictions != predictions[0]).any(axis=0))
    heading = f"Photos they disagree on: {len(differing):,}"
    if not len(differing):
        return Section(heading)
    spread = [
        sum(len(np.unique(codes)) for codes in decode(predictions[:, row])) for row in differing
    ]
    chosen = differing[np.argsort(-np.array(spread), kind="stable")][:count]
    ids = submissions.ids[chosen]
    paths = photo_paths(data_dir, ids)
    if not paths:
        shown = predictions if labels is None else np.vstack([labels, predictions])
        header = ("photo", *(() if labels is None else ("label",)), *submissions.names)
        rows = [
            (name, *(SHORT[ans] for ans in shown[:, row]))
            for name, row in zip(ids, chosen, strict=True)
        ]
        note = "--data_dir (or SM_CHANNEL_EVAL), the eval folder, shows the photos."
        return Section(heading, note, header, rows)
    photos = []
    for path, name, row in zip(paths, ids, chosen, strict=True):
        label = None if labels is None else labels[row]
        lines = [
            Line(f"{of}: {SHORT[ans]}", right=ans == label)
            for of, ans in zip(submissions.names, predictions[:, row], strict=True)
        ]
        lines += [] if label is None else [Line(f"label: {SHORT[label]}")]
        photos.append(Photo(path, lines, name))
    captions = [
        "\n".join("✓ " * bool(line.right) + line.text for line in photo.lines) for photo in photos
    ]
    note = "The most different predictions first." + " ✓ is right." * (labels is not None)
    sheet = contact_sheet(paths, captions)
    return Section(heading, note, photos=photos, figures=[sheet], embed=False)


def photo_paths(data_dir: str | None, ids) -> list[Path]:
    """The photos with these ImageIDs; an empty list unless the folder has them all."""
    given = data_dir or os.environ.get("SM_CHANNEL_EVAL")
    if not given:
        return []
    root = existing_folder(given, "--data_dir")
    root = root / "images" if (root / "images").is_dir() else root
    paths = [root / name for name in ids]
    inside = all(path.is_file() and path.resolve().is_relative_to(root.resolve()) for path in paths)
    return paths if inside else []
