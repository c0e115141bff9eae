"""What the folds of a run make together (out-of-fold predictions, their score, offsets); and what
its members do (the mean of their predictions, its score)."""

from pathlib import Path

import numpy as np
import pandas as pd

from core import metrics
from core.files import read_json, write_json
from core.progress import say
from prediction import tables
from prediction.model_file import set_tuned_offsets
from training.split import write_split


def combine_folds(path: Path, args, split) -> dict:
    """Write the out-of-fold predictions of all folds in `path`; their score.

    Offsets tuned on them are added to those in the model files, if they help.
    """
    folds = [path / f"fold-{fold}" for fold in range(args.folds)]
    parts = [tables.read_predictions(fold)[0] for fold in folds]
    fold_of_photo = np.repeat(np.arange(args.folds), [len(part) for part in parts])
    tables.write_table(path / "val_predictions.csv", pd.concat(parts, ignore_index=True))
    write_split(split, path / "split.csv")
    table, log_probabilities = tables.read_predictions(path)
    labels = table["label"].to_numpy()
    best = metrics.score(labels, table["ans"].to_numpy(), args.attribute)
    if not args.attribute:  # tuning is for the macro-F1 of all 18 classes
        tune_offsets(folds, args, log_probabilities, labels, fold_of_photo)
    write_json(path / "config.json", read_json(folds[0] / "config.json") | {"scores": best})
    return best


def combine_members(path: Path, args, split) -> dict:
    """Write the mean of the members' predictions on held-out people in `path`; its score.

    An empty score where nobody was held out.
    """
    members = [path / f"member-{member}" for member in range(args.members)]
    write_split(split, path / "split.csv")
    best = {}
    if (members[0] / "val_predictions.csv").is_file():
        predictions = [tables.read_predictions(member) for member in members]
        frame = predictions[0][0]
        mean = np.mean([np.exp(log_probabilities) for _, log_probabilities in predictions], axis=0)
        ages = None
        if "years" in frame:
            ages = np.mean([table["years"] for table, _ in predictions], axis=0)
        tables.write_predictions(path, frame, np.log(mean), ages)
        best = metrics.score(frame["label"].to_numpy(), mean.argmax(axis=1), args.attribute)
    config = read_json(members[0] / "config.json")
    config["settings"]["members"] = args.members  # more than it began with, if it was extended
    write_json(path / "config.json", config | {"scores": best})
    return best


def tune_offsets(folds: list[Path], args, log_probabilities, labels, fold_of_photo) -> None:
    """Tune offsets on all folds; add them to the model files if --offsets allows it."""
    offsets, before, after = metrics.cross_fitted_offsets(log_probabilities, labels, fold_of_photo)
    used = args.offsets in ("tuned", "yes") or (args.offsets == "auto" and after > before + 0.002)
    say(
        f"offsets tuned out of fold: macro-F1 {before:.4f} without them, {after:.4f} with those of "
        f"the other folds: {'added to the model files' if used else 'left out'}"
    )
    if used:
        for fold in folds:
            set_tuned_offsets(fold / "best.safetensors", offsets)
