"""val_predictions.csv: the predictions on held-out photos."""

from pathlib import Path

import numpy as np
import pandas as pd

from core.files import atomic
from core.labels import CLASSES


def write_predictions(path: Path, frame, log_probabilities, ages=None) -> None:
    """Write val_predictions.csv: person, path, label, ans and 18 probabilities of each photo.

    `ages` (N,) that the model predicts are written as `years`.
    """
    table = frame[["person", "path", "label"]].assign(ans=log_probabilities.argmax(axis=1))
    probabilities = pd.DataFrame(
        np.exp(log_probabilities).round(6), columns=[f"p{label}" for label in range(CLASSES)]
    )
    if ages is not None:
        probabilities["years"] = ages.round(1)
    write_table(path / "val_predictions.csv", pd.concat([table, probabilities], axis=1))


def read_predictions(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The table in val_predictions.csv and its log-probabilities (N, 18)."""
    table = pd.read_csv(path / "val_predictions.csv")
    return table, np.log(table[[f"p{label}" for label in range(CLASSES)]].to_numpy().clip(1e-7))


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
