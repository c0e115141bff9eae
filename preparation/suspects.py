"""Labels that are probably wrong, ranked on out-of-fold predictions; a page to judge them by eye.

Mask and gender by confident learning (cleanlab; Northcutt et al. 2021,
https://arxiv.org/abs/1911.00068), age by how many years it is from the predicted one.
"""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from core.errors import UserError
from core.files import atomic
from core.folders import run_parts
from core.labels import AGES, ATTRIBUTES, CLASSES, age_band, decode
from core.people import parse_person
from core.photo import PhotoError, load_photo
from prediction.tables import read_predictions
from prediction.words import attribute_probabilities

COLUMNS = ["field", "person", "photo", "path", "given", "better", "score", "suspect", "years"]
PROBABILITIES = [f"p{label}" for label in range(CLASSES)]
FAR = 3.0  # standard deviations from which an age is suspect


# ---------------------------------------------------------------------------- predictions
def predictions_of(runs: list[Path]) -> pd.DataFrame:
    """person, photo, path, label and the 18 probabilities of every photo that some run validated.

    Folds add up, seeds are averaged. Raises UserError if a run validated nobody, or with other
    labels.
    """
    tables = [read_predictions(folder)[0] for run in runs for folder in parts(run)]
    every = pd.concat(tables, ignore_index=True)
    every["photo"] = [Path(path).stem.lower() for path in every["path"]]
    by_photo = every.groupby(["person", "photo"], as_index=False)
    labels = by_photo["label"].nunique()
    if (labels["label"] > 1).any():
        person = labels["person"][labels["label"].argmax()]
        raise UserError(
            f"{' and '.join(map(str, runs))}: have other labels for {person}; give runs of one "
            "data set with the same corrections"
        )
    taken = {"path": "last", "label": "first", **dict.fromkeys(PROBABILITIES, "mean")}
    if "years" in every:
        taken["years"] = "mean"
    return by_photo.agg(taken)


def parts(run: Path) -> list[Path]:
    """The run folder with predictions of held-out photos, or its folds or members."""
    for folders in ([run], run_parts(run)):
        found = [folder for folder in folders if (folder / "val_predictions.csv").is_file()]
        if found:
            return found
    raise UserError(
        f"{run}: has no val_predictions.csv; give a run that held people out, best one of --folds"
    )


# ---------------------------------------------------------------------------- ranking
def rank(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """All labels, the most suspect first in each attribute, and how many are expected to be wrong.

    Mask is judged by photo; gender and age by person, over the mean of the person's photos. score:
    quality of the given label, 0 (wrong) to 1; years: how far an age is from the predicted one.
    The number expected, by attribute, is in words.
    """
    ranked, expected = [], {}
    for axis, (field, names) in enumerate(ATTRIBUTES.items()):
        of, share = _shares(table, field)
        labels = decode(of["label"].to_numpy())[axis]
        constant = np.ptp(share, axis=0).max() < 2e-5  # of runs with another --attribute
        if len(np.unique(labels)) < 2 or constant:
            continue  # nothing can be mistaken for another class
        judge = _judge_ages if field == "age" else _judge_classes
        judged, expected[field] = judge(of, share, labels)
        of = of.assign(
            field=field,
            given=[names[code] for code in labels],
            better=[names[code] for code in share.argmax(axis=1)],
            **judged,
        )
        of["order"] = -of["years"].abs() if field == "age" else of["score"]
        ranked.append(of.sort_values(["order", "person", "photo"])[COLUMNS])
    return pd.concat(ranked, ignore_index=True), expected


def _shares(table: pd.DataFrame, field: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The photos, or people, to judge, and the probabilities of the attribute's values (N, K)."""
    share = attribute_probabilities(table[PROBABILITIES].to_numpy())[field]
    values = list(range(share.shape[1]))
    of = table.drop(columns=PROBABILITIES).join(pd.DataFrame(share))
    if field != "mask":
        taken = {**dict.fromkeys(values, "mean"), "path": "last", "label": "first"}
        if "years" in of:
            taken["years"] = "mean"
        of = of.groupby("person", as_index=False).agg(taken).assign(photo="")
    share = of[values].to_numpy()
    return of, share / share.sum(axis=1, keepdims=True)


def _judge_classes(of: pd.DataFrame, share: np.ndarray, labels: np.ndarray) -> tuple[dict, str]:
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    present = np.isin(range(share.shape[1]), labels)
    known = (np.cumsum(present) - 1)[labels]  # cleanlab wants the classes without gaps
    among = share[:, present] / share[:, present].sum(axis=1, keepdims=True)
    judged = {
        "score": get_label_quality_scores(known, among).round(6),
        "suspect": find_label_issues(known, among, n_jobs=1),  # its process pool may hang
        "years": np.nan,
    }
    return judged, f"about {num_label_issues(known, among):,}"


def _judge_ages(of: pd.DataFrame, share: np.ndarray, bands: np.ndarray) -> tuple[dict, str]:
    """Ages by their distance from the predicted ones, in years.

    The predicted age is that of the run's years head where it has one, else the mean of the bands'
    median ages, weighted by their probabilities. Predictions lean to the mean, so the usual error
    at that age is taken off.
    Wrong ages that the model cannot notice are in no estimate: what is expected is a lower bound,
    and says how far off an age must be.
    """
    ages = _ages(of["person"], bands)
    typical = pd.Series(ages).groupby(bands).median().reindex(range(len(AGES)))
    typical = typical.fillna(ages.mean()).to_numpy()
    predicted = share @ typical
    if "years" in of:
        predicted = of["years"].fillna(pd.Series(predicted, of.index)).to_numpy()
    # the oldest on record stand for all older people, too (loss.years_loss)
    error = np.minimum(predicted, ages.max()) - ages
    near = [
        np.argsort(np.abs(ages - age), kind="stable")[: max(15, len(ages) // 8)] for age in ages
    ]
    error = error - np.array([np.median(error[rows]) for rows in near])
    # standard deviations by medians, which wrong labels hardly move; larger near the borders
    spread = np.array([np.median(np.abs(error[rows])) for rows in near])
    spread = 1.4826 * np.maximum(spread, np.median(np.abs(error))) + 0.1
    far = np.abs(error) / spread
    score = np.array([math.erfc(value / math.sqrt(2)) for value in far])
    suspect = (far > FAR) & (share.argmax(axis=1) != bands)
    expected = max(0.0, (far > FAR).sum() - math.erfc(FAR / math.sqrt(2)) * len(far))
    follows = max(np.polyfit(ages, predicted, 1)[0], 0.01)  # predicted years for a year
    reach = min(FAR * np.median(spread) / follows, 99)
    return (
        {"score": score.round(6), "suspect": suspect, "years": error.round(1)},
        f"at least {expected:,.0f} (an age is noticed if it is {reach:.0f} years off or more)",
    )


def _ages(people: pd.Series, bands: np.ndarray) -> np.ndarray:
    """The ages in folder names, where a correction has not moved them to another band."""
    named = [(parse_person(person) or {}).get("age", np.nan) for person in people]
    ages = np.array(named, float)
    ages[age_band(np.nan_to_num(ages, nan=-1)) != bands] = np.nan
    return np.where(np.isnan(ages), np.array([20.0, 45.0, 60.0])[bands], ages)


def draft(ranked: pd.DataFrame) -> pd.DataFrame:
    """The suspects as corrections: person, field, value, photo.

    An age is left out: it needs a number of years, which the reader gives.
    """
    differs = ranked["given"] != ranked["better"]
    chosen = ranked[ranked["suspect"] & differs & (ranked["field"] != "age")]
    return chosen.rename(columns={"better": "value"})[["person", "field", "value", "photo"]]


# ---------------------------------------------------------------------------- the page
def to_show(ranked: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most `count` suspects, the first of each attribute in turn."""
    suspects = ranked[ranked["suspect"]]
    turn = suspects.groupby("field", sort=False).cumcount()
    return suspects.assign(turn=turn).sort_values("turn", kind="stable").head(count)


def write_page(shown: pd.DataFrame, table: pd.DataFrame, expected: dict, output: Path) -> None:
    """A page with each suspect beside the person's other photos, to be accepted or rejected.

    It gives the accepted ones back as corrections.csv.
    """
    paths = table.groupby("person")["path"].agg(list)
    rows = []
    for row in shown.to_dict("records"):
        others = [path for path in paths[row["person"]] if path != row["path"]]
        rows.append(
            row
            | {
                "picture": thumbnail(row["path"], (256, 192)),
                "others": [thumbnail(path, (64, 48)) for path in others],
            }
        )
    data = shown[["person", "field", "better", "photo"]].to_dict("records")
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    template = Environment(loader=loader, autoescape=True).get_template("suspects.html")
    with atomic(output) as temporary:
        page = template.render(rows=rows, data=data, expected=expected)
        temporary.write_text(page, encoding="utf-8")


def thumbnail(path: str, size: tuple[int, int]) -> dict:
    """A photo as the base64 of a JPEG, or why it cannot be read."""
    stream = io.BytesIO()
    try:
        Image.fromarray(load_photo(path, size)).save(stream, "JPEG", quality=85)
    except PhotoError as error:
        return {"error": error.reason}
    return {"jpeg": base64.b64encode(stream.getvalue()).decode()}
