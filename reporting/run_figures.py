"""Figures of the page on one run."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from core.figures import (
    BLUE,
    GREEN,
    GREY,
    MASK_COLOURS,
    ORANGE,
    RED,
    SHORT,
    SHORT_ATTRIBUTES,
    confusion_matrix,
)
from core.labels import decode
from core.photo import load_photo

SCORE_LINES = (
    ("mask", BLUE, "s--"),
    ("gender", GREEN, "^--"),
    ("age", ORANGE, "v--"),
    ("macro_f1", RED, "o-"),
)


def learning_curves(tables):
    """Training loss and validation scores by epoch, as two figures (one if nobody was held out).

    tables: metrics.csv of the run, or of each fold or member: then these are thin lines, their
    mean a thick one.
    """
    figures = [_loss_curve(tables)]
    if all("macro_f1" in table for table in tables):
        figures.append(_score_curves(tables))
    for figure in figures:
        (axis,) = figure.axes
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(axis="y", color="#e4e4e4")
    return figures


def _loss_curve(tables):
    figure, axis = plt.subplots(figsize=(4.6, 3.4))
    _by_epoch(axis, tables, "loss", GREY, "o-")
    axis.set(title="Training loss", ylim=(0, 1.06 * max(table["loss"].max() for table in tables)))
    return figure


def _score_curves(tables):
    figure, axis = plt.subplots(figsize=(5.8, 3.4))
    tables = [table.dropna(subset="macro_f1") for table in tables]  # not every epoch is validated
    for name, colour, mark in SCORE_LINES:
        last = _by_epoch(axis, tables, name, colour, mark)
        text = f"{name.replace('macro_f1', 'macro-F1')} {last[1]:.2f}"
        style = {"va": "center", "color": colour, "fontweight": "bold", "fontsize": 9}
        axis.annotate(text, last, (8, 0), textcoords="offset points", **style)
    axis.set(title="Validation macro-F1 and accuracies", ylim=(0, 1.04))
    _spread(axis)
    if len(tables) == 1:  # folds and members keep their last epoch
        best = tables[0].loc[tables[0]["macro_f1"].idxmax()]
        point = (best["epoch"], best["macro_f1"])
        axis.plot(*point, "o", markersize=11, markerfacecolor="none", color=RED)
        style = {"ha": "center", "color": RED, "fontsize": 8}
        axis.annotate("best", point, (0, -17), textcoords="offset points", **style)
    return figure


def _by_epoch(axis, tables, column, colour, mark) -> tuple[float, float]:
    """Draw `column` of the tables; returns the last point of the (mean) line."""
    if len(tables) > 1:
        for table in tables:
            axis.plot(table["epoch"], table[column], color=colour, linewidth=0.8, alpha=0.4)
    epochs = min((table["epoch"] for table in tables), key=len)
    mean = np.mean([table[column][: len(epochs)] for table in tables], axis=0)
    axis.plot(epochs, mean, mark, color=colour, markersize=5)
    return float(epochs.iloc[-1]), float(mean[-1])


def _spread(axis, gap=0.075) -> None:
    """Move the annotations of an axis apart vertically until none overlaps another."""
    notes = sorted(axis.texts, key=lambda note: note.xy[1])
    height = notes[0].xy[1]
    for note in notes:
        height = max(height, note.xy[1])
        note.set_position((8, (height - note.xy[1]) * 190))  # points: the axis is about 190 high
        height += gap


def attribute_confusions(labels, ans, axes=("predicted", "label"), share="accuracy"):
    """A confusion matrix of each attribute, three figures; titles call the diagonal `share`."""
    figures = []
    codes = zip(SHORT_ATTRIBUTES.items(), decode(labels), decode(ans), strict=True)
    for (name, values), label, predicted in codes:
        counts = np.zeros((len(values), len(values)), int)
        np.add.at(counts, (label, predicted), 1)
        figure, axis = plt.subplots(figsize=(3.5, 3.5))
        title = f"{name}: {share} {np.mean(label == predicted):.1%}"
        confusion_matrix(counts, values, title, axis)
        axis.set(xlabel=axes[0], ylabel=axes[1])
        axis.tick_params(axis="y", rotation=90)
        for tick in axis.get_yticklabels():
            tick.set_verticalalignment("center")
        figures.append(figure)
    return figures


def class_bars(class_f1, support):
    """F1 and number of photos (`support`) of each class; one colour per mask state."""
    figure, axis = plt.subplots(figsize=(6.4, 5.4))
    values, box = np.nan_to_num(class_f1), {"color": "white", "pad": 0.5, "linewidth": 0}
    rows = np.arange(len(SHORT))
    axis.barh(rows, values, color=[MASK_COLOURS[label // 6] for label in rows])
    for label, (f1, count) in enumerate(zip(class_f1, support, strict=True)):
        absent = np.isnan(f1)
        text = "not in the data, never predicted" if absent else f"{f1:.2f}, {count:,} photos"
        style = {"va": "center", "fontsize": 9, "zorder": 3, "bbox": box}
        axis.text(values[label] + 0.012, label, text, **style)
    axis.axvline(np.nanmean(class_f1), color="black", linewidth=1, linestyle=":")
    axis.set_yticks(rows, SHORT)
    axis.set(title="F1 by class (dotted line: macro-F1)", xlim=(0, 1.3))
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.invert_yaxis()
    return figure


def reliability(confidence, right):
    """Accuracy by confidence in ten bins, with the expected calibration error in the title.

    confidence (N,): the probability of each predicted class; right (N,): whether it is correct.
    """
    bins = np.minimum((confidence * 10).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    accuracy = np.bincount(bins, right, minlength=10) / np.maximum(counts, 1)
    mean = np.bincount(bins, confidence, minlength=10) / np.maximum(counts, 1)
    error = (counts * np.abs(accuracy - mean)).sum() / counts.sum()
    figure, (axis, below) = plt.subplots(2, 1, figsize=(5, 5.2), height_ratios=(3, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axis.annotate("underconfident", (0.04, 0.9), color=GREY)
    axis.annotate("overconfident", (0.96, 0.06), color=GREY, ha="right")
    filled = counts > 0
    axis.plot(mean[filled], accuracy[filled], "o-", color=BLUE)
    axis.set(title=f"Expected calibration error: {error:.3f}", ylabel="accuracy")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    below.bar(np.arange(10) / 10 + 0.05, counts, 0.09, color=BLUE)
    below.set(xlabel="confidence", ylabel="photos")
    for each in (axis.xaxis, below.xaxis, axis.yaxis):
        each.set_major_formatter(PercentFormatter(1))
    return figure


def heat_maps(paths, captions, heat, size, crop):
    """Photos as the model sees them, and below with a heat map (H, W) in 0..1 over each.

    size and crop as load_photo takes them.
    """
    figure, axes = plt.subplots(2, len(paths), figsize=(1.75 * len(paths), 5.2), squeeze=False)
    for column, (path, caption, values) in enumerate(zip(paths, captions, heat, strict=True)):
        photo = load_photo(path, size, crop)
        image = Image.fromarray((values * 255).astype(np.uint8))
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        axes[0, column].set_title(caption, fontsize=8, fontweight="normal", loc="left")
        axes[0, column].imshow(photo)
        axes[1, column].imshow(photo)
        axes[1, column].imshow(np.asarray(image), cmap="inferno", alpha=0.5, vmin=0, vmax=255)
        for axis in axes[:, column]:
            axis.axis("off")
    return figure
