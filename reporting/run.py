"""The page on one run: what it predicted for the people it did not train on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from core import metrics
from core.errors import UserError
from core.figures import SHORT, confusion_matrix, contact_sheet
from core.files import read_json
from core.folders import folder, run_parts, safe_name
from prediction.tables import read_predictions
from reporting import findings, run_figures
from reporting.gradcam import grad_cam
from reporting.page import Line, Photo, Section, Tile, write_page

SETTINGS = (
    *("model", "pretrained", "head", "resize", "epochs", "batch_size", "optimizer", "lr"),
    *("criterion", "augmentation", "precision", "layout", "seed", "data_dir", "corrections"),
    *("extra",),
)


@dataclass(frozen=True)
class Run:
    """A run's held-out predictions (out-of-fold if it has folds) and what is known about it.

    photos: a row each, with person, path, label, ans, confidence and right; epochs: metrics.csv
    of the run or of each fold or member; settings: as used, from config.json.
    """

    path: Path
    photos: pd.DataFrame
    epochs: list[pd.DataFrame]
    settings: dict

    @property
    def labels(self) -> np.ndarray:
        return self.photos["label"].to_numpy()

    @property
    def ans(self) -> np.ndarray:
        return self.photos["ans"].to_numpy()


def main(args) -> int:
    path = Path(args.name)
    runs = folder(args.model_dir, "SM_MODEL_DIR", default="model")
    if not path.is_dir() or (runs / path / "val_predictions.csv").is_file():
        path = path if path.is_absolute() else runs / safe_name(str(path))
    print(f"wrote {run_page(path, args.output, args.photos)}")
    return 0


def run_page(path: Path, output: Path | None = None, photos: int = 24) -> Path:
    """Write the page on the run in folder `path`, all its models together; returns the page's path.

    photos: how many mistakes to show. UserError if nobody was held out.
    """
    run = read_run(path)
    if attribute := run.settings.get("attribute"):
        raise UserError(
            f"{path}: was trained on the {attribute} alone, and the page is on all three; its "
            "scores are in metrics.csv"
        )
    class_f1 = metrics.per_class_f1(run.labels, run.ans)
    low, high = metrics.bootstrap(run.labels, run.ans, run.photos["person"])
    confidence, right = run.photos["confidence"].to_numpy(), run.photos["right"].to_numpy()
    sentences = [
        f"The 95% confidence interval of macro-F1 is {low:.3f} to {high:.3f} (bootstrap over "
        "people): compare runs only on the same held-out people.",
        *findings.learning(run.epochs),
        *findings.mistakes(run.labels, run.ans, class_f1),
        findings.calibration(confidence, right),
    ]

    def sections():
        yield from learning_section(run)
        yield from confusion_sections(run, class_f1)
        yield Section(
            "Confidence",
            "On the dotted line, predictions made with 70% confidence are right 70% of the time. "
            "Below it the model is overconfident.",
            figures=[run_figures.reliability(confidence, right)],
        )
        yield from mistake_sections(run, photos)
        yield from settings_section(run)

    title = f"Run {path.name}"
    return write_page(
        output or path / "report", title, sections(), tiles(run, low, high), sentences
    )


def read_run(path: Path) -> Run:
    if not (path / "val_predictions.csv").is_file():
        what = "is not a run"
        if (path / "config.json").is_file():
            what = "has not validated yet, or on nobody (--val_ratio 0)"
        raise UserError(f"{path}: {what}; there is nothing to report")
    photos, log_probabilities = read_predictions(path)
    chosen = log_probabilities[np.arange(len(photos)), photos["ans"]]
    photos = photos.assign(confidence=np.exp(chosen), right=photos["label"] == photos["ans"])
    files = [folder / "metrics.csv" for folder in (path, *run_parts(path))]
    settings = {}
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        choices = config["choices"]
        settings = config["settings"] | {
            "precision": choices["precision"],
            "layout": "last" if choices["channels_last"] else "first",
            "resize": choices.get("resize") or config["settings"].get("resize"),
        }
    return Run(path, photos, [pd.read_csv(file) for file in files if file.is_file()], settings)


def tiles(run: Run, low: float, high: float) -> list[Tile]:
    scores = metrics.score(run.labels, run.ans)
    accuracies = [
        Tile(name, f"{scores[name]:.1%}", "accuracy" if name != "accuracy" else "all three right")
        for name in ("accuracy", "mask", "gender", "age")
    ]
    people = run.photos["person"].nunique()
    return [
        Tile("macro-F1", f"{scores['macro_f1']:.4f}", f"95%: {low:.4f} to {high:.4f}"),
        *accuracies,
        Tile("held out", f"{len(run.photos):,}", f"photos of {people:,} people"),
    ]


def learning_section(run: Run):
    if run.epochs:
        thin = " Thin lines: the folds or members." if len(run.epochs) > 1 else ""
        yield Section(
            "Learning curves",
            "Training loss should fall and macro-F1 (red) rise. If the loss still falls but "
            "macro-F1 does not rise, the model overfits; if both still move, train for more "
            f"epochs.{thin}",
            figures=run_figures.learning_curves(run.epochs),
        )


def confusion_sections(run: Run, class_f1):
    counts = metrics.confusion(run.labels, run.ans)
    accuracy = run.photos["right"].mean()
    yield Section(
        "Attributes",
        "Rows are labels, columns predictions; numbers are photos. The darker the diagonal, the "
        "better.",
        figures=run_figures.attribute_confusions(run.labels, run.ans),
    )
    yield Section(
        "Classes",
        "Every class has the same weight in macro-F1, however few photos it has: the shortest bars "
        "have the most to gain.",
        figures=[run_figures.class_bars(class_f1, counts.sum(axis=1))],
    )
    yield Section(
        "Confusion of the 18 classes",
        "A row shows what the photos of one class were predicted as. The colour is the share of "
        "the row; what is off the diagonal is wrong.",
        figures=[confusion_matrix(counts, SHORT, f"18 classes: accuracy {accuracy:.1%}")],
    )


def mistake_sections(run: Run, count: int):
    """The most confident mistakes, at most one a person, and Grad-CAM of the first of them."""
    wrong = run.photos[~run.photos["right"]]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates("person").head(count)
    shown = wrong[[Path(path).is_file() for path in wrong["path"]]]
    if shown.empty:
        if len(wrong):
            yield Section(
                "Most confident mistakes",
                f"Not shown: {wrong['path'].iloc[0]} does not exist relative to {Path.cwd()}. Run "
                "report.py in the folder in which train.py ran.",
            )
        return
    of_person = run.photos.groupby("person")["right"].agg(["sum", "size"])
    photos = []
    for row in shown.itertuples():
        right, total = of_person.loc[row.person]
        lines = (
            f"label: {SHORT[row.label]}",
            f"predicted: {SHORT[row.ans]} ({row.confidence:.0%})",
            f"{total - right} of {total} photos wrong",
        )
        name = f"{Path(row.path).parent.name}/{Path(row.path).name}"
        photos.append(Photo(row.path, [Line(line) for line in lines], name))
    paths = shown["path"].tolist()
    captions = ["\n".join(line.text for line in photo.lines) for photo in photos]
    yield Section(
        "Most confident mistakes",
        "One photo per person, the most confident first. Where all photos of a person are wrong, "
        "the label may be: 'python prepare.py suspects' ranks labels that are probably wrong.",
        photos=photos,
        figures=[contact_sheet(paths, captions)],
        embed=False,
    )
    heat, note = grad_cam(run.path, paths[:6], shown["ans"].tolist()[:6])
    figures = [run_figures.heat_maps(paths[:6], captions[:6], *heat)] if heat else []
    yield Section("Where the model looked", note, figures=figures)


def settings_section(run: Run):
    rows = [(name, str(run.settings.get(name))) for name in SETTINGS]
    rows = [(name, value) for name, value in rows if value != "None"]
    if rows:
        note = "All flags and versions are in config.json."
        yield Section("Settings", note, ("flag", "value"), rows)
