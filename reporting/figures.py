"""The pictures of the reports (matplotlib), in colours and marks that colour-blind eyes tell apart."""

import logging
import re
import unicodedata
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from core.labels import ATTRIBUTES, CLASS_NAMES, OFFICIAL_BANDS
from core.photo import PhotoError, load_photo

plt.switch_backend("Agg")  # no window


logging.getLogger("matplotlib.font_manager").setLevel(
    logging.ERROR
)  # of weights that a font has not


# Okabe and Ito's palette: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#666666",
)


SERIES = [
    (BLUE, "o"),
    (RED, "D"),
    (GREEN, "s"),
    (ORANGE, "^"),
    (PURPLE, "v"),
    (SKY, "P"),
    (GREY, "X"),
    ("black", "*"),
]


HANGUL = (
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "UnDotum",
)


def hangul_font() -> str | None:
    """The name of an installed font with Korean letters, one put there since matplotlib made its list of fonts included."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    if not known & set(HANGUL):
        for file in font_manager.findSystemFonts():
            if re.match(
                r"notosans(cjk|kr)|nanumgothic\.|malgun|apple.*gothic|undotum",
                Path(file).name.lower(),
            ):
                font_manager.fontManager.addfont(file)
        known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in HANGUL if name in known), None)


KOREAN = hangul_font()


plt.rcParams.update(
    {
        "font.family": ["DejaVu Sans", *filter(None, [KOREAN])],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "figure.constrained_layout.use": True,
        "axes.unicode_minus": False,
        "text.parse_math": False,
    }
)


PARTS = {
    "mask": ("worn", "wrong", "none"),
    "gender": ATTRIBUTES["gender"],
    "age": ATTRIBUTES["age"],
}


SHORT = [
    name.replace("not wear", "none").replace("incorrect", "wrong").replace("wear", "worn")
    for name in CLASS_NAMES
]


# ---------------------------------------------------------------------------- of a run
def curves(tables):
    """Two figures: loss, and the scores of validation, by epoch. tables: metrics.csv, of each fold (thin, their mean thick)."""
    loss, axis = plt.subplots(figsize=(4.6, 3.4))
    _by_epoch(axis, tables, "loss", GREY, "o-")
    axis.set(
        title="Loss on the photos trained on",
        xlabel="epoch",
        ylim=(0, 1.06 * max(table["loss"].max() for table in tables)),
    )
    figures = [loss]
    if all("macro_f1" in table for table in tables):
        scores, axis = plt.subplots(figsize=(5.8, 3.4))
        for name, colour, mark in (
            ("mask", BLUE, "s--"),
            ("gender", GREEN, "^--"),
            ("age", ORANGE, "v--"),
            ("macro_f1", RED, "o-"),
        ):
            last = _by_epoch(axis, tables, name, colour, mark)
            axis.annotate(
                f"{name.replace('macro_f1', 'macro-F1')} {last[1]:.2f}",
                last,
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontweight="bold",
                fontsize=9,
            )
        axis.set(title="Macro-F1 and accuracies on people held out", xlabel="epoch", ylim=(0, 1.04))
        _spread(axis)
        if len(tables) == 1:  # of folds each has its own
            kept = tables[0].loc[tables[0]["macro_f1"].idxmax()]
            axis.plot(
                kept["epoch"],
                kept["macro_f1"],
                "o",
                markersize=11,
                markerfacecolor="none",
                color=RED,
            )
            axis.annotate(
                "kept",
                (kept["epoch"], kept["macro_f1"]),
                xytext=(0, -17),
                textcoords="offset points",
                ha="center",
                color=RED,
                fontsize=8,
            )
        figures.append(scores)
    for figure in figures:
        figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.axes[0].grid(axis="y", color="#e4e4e4")
    return figures


def _by_epoch(axis, tables, column, colour, mark) -> tuple[float, float]:
    """Draw `column`; the last point of the (mean) line."""
    if len(tables) > 1:
        for table in tables:
            axis.plot(table["epoch"], table[column], color=colour, linewidth=0.8, alpha=0.4)
    epochs = min((table["epoch"] for table in tables), key=len)
    mean = np.mean([table[column][: len(epochs)] for table in tables], axis=0)
    axis.plot(epochs, mean, mark, color=colour, markersize=5)
    return float(epochs.iloc[-1]), float(mean[-1])


def _spread(axis, gap=0.075) -> None:
    """Move the annotations of an axis apart until none overlaps another."""
    notes = sorted(axis.texts, key=lambda note: note.xy[1])
    height = notes[0].xy[1]
    for note in notes:
        height = max(height, note.xy[1])
        note.set_position((8, (height - note.xy[1]) * 190))  # points: the axis is about 190 high
        height += gap


def confusion_matrix(counts, names, title, axis=None):
    """Rows the truth, columns the answers; colour is the share of the row, numbers are photos."""
    figure = None
    if axis is None:
        figure, axis = plt.subplots(figsize=(9.2, 8.4))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        axis.text(
            column,
            row,
            f"{counts[row, column]:,}",
            ha="center",
            va="center",
            fontsize=8 if len(names) > 3 else 10,
            color="white" if share[row, column] > 0.55 else "black",
        )
    axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 3 else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(title=title, xlabel="answer", ylabel="truth")
    axis.spines[:].set_visible(False)
    return figure


def attribute_confusions(labels, ans, axes=("answer", "truth"), word="right"):
    """Three figures: a confusion matrix for each attribute."""
    figures = []
    for (name, values), of_truth, of_answer in zip(
        PARTS.items(), parts(labels), parts(ans), strict=True
    ):
        counts = np.zeros((len(values), len(values)), int)
        np.add.at(counts, (of_truth, of_answer), 1)
        figure, axis = plt.subplots(figsize=(3.4, 3.5))
        confusion_matrix(
            counts, values, f"{name}: {np.mean(of_truth == of_answer):.1%} {word}", axis
        )
        axis.set(xlabel=axes[0], ylabel=axes[1])
        figures.append(figure)
    return figures


def parts(labels):
    """Labels (N,) -> mask, gender and age codes."""
    labels = np.asarray(labels)
    return labels // 6, labels // 3 % 2, labels % 3


def class_bars(class_f1, support):
    """F1 of each class and the number of its photos, the classes of one way to wear a mask together."""
    figure, axis = plt.subplots(figsize=(6.4, 5.4))
    values = np.nan_to_num(class_f1)
    axis.barh(
        range(len(SHORT)),
        values,
        color=[(BLUE, ORANGE, GREEN)[label // 6] for label in range(len(SHORT))],
    )
    for label, (value, count) in enumerate(zip(class_f1, support, strict=True)):
        text = f"{value:.2f}, {count:,} photos" if value == value else "neither there nor answered"
        axis.text(
            values[label] + 0.012,
            label,
            text,
            va="center",
            fontsize=9,
            zorder=3,
            bbox={"color": "white", "pad": 0.5, "linewidth": 0},
        )
    axis.axvline(values[~np.isnan(class_f1)].mean(), color="black", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(SHORT)), SHORT)
    axis.set(title="F1 by class; dotted: their mean, the macro-F1", xlim=(0, 1.3))
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.invert_yaxis()
    return figure


def reliability(confidence, right):
    """How often answers of a given confidence are right, over ten bins of it; the expected calibration error."""
    bins = np.minimum((confidence * 10).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    hit = np.bincount(bins, right, minlength=10) / np.maximum(counts, 1)
    mean = np.bincount(bins, confidence, minlength=10) / np.maximum(counts, 1)
    error = float((counts * np.abs(hit - mean)).sum() / counts.sum())
    figure, (axis, below) = plt.subplots(2, 1, figsize=(5, 5.2), height_ratios=(3, 1), sharex=True)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axis.annotate("too modest", (0.04, 0.9), color=GREY)
    axis.annotate("too sure of itself", (0.96, 0.06), color=GREY, ha="right")
    filled = counts > 0
    axis.plot(mean[filled], hit[filled], "o-", color=BLUE)
    axis.set(
        title=f"Calibration: off by {error:.3f} on average",
        ylabel="share that is right",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    below.bar(np.arange(10) / 10 + 0.05, counts, 0.09, color=BLUE)
    below.set(xlabel="confidence in the answer", ylabel="photos")
    for each in (axis, below):
        each.xaxis.set_major_formatter(PercentFormatter(1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    return figure, error


def contact_sheet(paths, captions, columns=6, size=(160, 120)):
    """Photos in a grid (height, width of each in pixels) with their names and captions (lines in one text) above."""
    rows = -(-len(paths) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(11, 11 / columns * (size[0] / size[1] + 0.32) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, path, caption) in enumerate(
        zip(axes.flat, paths, captions, strict=False), start=1
    ):
        try:
            axis.imshow(load_photo(path, size))
        except PhotoError as error:
            axis.imshow(np.full((*size, 3), 230, np.uint8))
            caption = f"{caption}\n({error.reason})"
        name = unicodedata.normalize(
            "NFC", Path(path).name
        )  # macOS stores Korean letters taken apart
        shown = (
            name if name.isascii() or KOREAN else "(name: see page)"
        )  # never boxes in place of letters
        shown = shown if len(shown) <= 16 else "…" + shown[-15:]
        axis.set_title(f"{number}  {shown}\n{caption}", fontsize=7, fontweight="normal", loc="left")
    return figure


def looked_at(paths, captions, heat, size, crop):
    """Photos as the model sees them (size and crop as load_photo takes them), with a heat map (H, W) in 0..1 laid over each."""
    figure, axes = plt.subplots(2, len(paths), figsize=(1.75 * len(paths), 5.2), squeeze=False)
    for column, (path, caption, warmth) in enumerate(zip(paths, captions, heat, strict=True)):
        photo = load_photo(path, size, crop)
        warm = np.asarray(
            Image.fromarray((warmth * 255).astype(np.uint8)).resize(
                size[::-1], Image.Resampling.BILINEAR
            )
        )
        axes[0, column].imshow(photo)
        axes[0, column].set_title(caption, fontsize=8, fontweight="normal", loc="left")
        axes[1, column].imshow(photo)
        axes[1, column].imshow(warm, cmap="inferno", alpha=0.5, vmin=0, vmax=255)
        axes[0, column].axis("off")
        axes[1, column].axis("off")
    return figure


# ---------------------------------------------------------------------------- of several submissions
def agreement_matrix(agreement, names, title):
    """Shares of photos (n, n) on which each two of n submissions agree."""
    side = 0.62 * len(names) + 0.09 * max(map(len, names)) + 1.1
    figure, axis = plt.subplots(figsize=(max(side, 2.6), max(side, 2.6)))
    low = min(0.5, agreement.min())
    axis.imshow(agreement, cmap="Blues", vmin=low, vmax=1)
    for row, column in np.ndindex(agreement.shape):
        value = agreement[row, column]
        axis.text(
            column,
            row,
            f"{value:.0%}" if value in (0, 1) else f"{value:.1%}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if value > low + 0.6 * (1 - low) else "black",
        )
    turned = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        if max(map(len, names)) > 5
        else {}
    )
    axis.set_xticks(range(len(names)), names, **turned)
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title)
    axis.spines[:].set_visible(False)
    return figure


def by_class(values, names, title):
    """A row of marks for each class, one a submission. values (n, 18), nan where there is nothing to show; names of the n submissions."""
    figure, axis = plt.subplots(figsize=(6.3, 6.4))
    rows = np.arange(len(SHORT))
    for row, of_class in enumerate(values.T):
        axis.plot(of_class, [row] * len(of_class), color="#bbbbbb", linewidth=2, zorder=1)
    for name, of_one, (colour, mark) in zip(names, values, SERIES * len(names), strict=False):
        colour, mark = ("black", "|") if name == "truth" else (colour, mark)
        axis.scatter(
            of_one,
            rows,
            s=130 if mark == "|" else 42,
            color=colour,
            marker=mark,
            label=name,
            zorder=2,
            alpha=0.85,
        )
    for line in (5.5, 11.5):
        axis.axhline(line, color="#cccccc", linewidth=1)
    axis.set_yticks(rows, SHORT)
    axis.set_title(title)
    axis.set_xlim(left=0)
    axis.grid(axis="x", color="#e4e4e4")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    return figure


# ---------------------------------------------------------------------------- of a data folder
def ages(people):
    """People by age in years, men and women apart, the bands drawn."""
    figure, axis = plt.subplots(figsize=(10, 3.8))
    bins = np.arange(0, people["age"].max() + 2)
    both = [people["age"][people["gender"] == gender] for gender in (0, 1)]
    axis.hist(
        both,
        bins,
        stacked=True,
        color=[BLUE, ORANGE],
        label=[f"male ({len(both[0]):,})", f"female ({len(both[1]):,})"],
    )
    for bound in OFFICIAL_BANDS:
        axis.axvline(bound, color="black", linewidth=1)
    shares = [
        np.mean(people["age"] < 30),
        np.mean(people["age"].between(30, 59)),
        np.mean(people["age"] >= 60),
    ]
    axis.set(
        title="People by age: "
        + ", ".join(
            f"{name} {share:.0%}" for name, share in zip(ATTRIBUTES["age"], shares, strict=True)
        ),
        xlabel="age in years",
        ylabel="people",
        xlim=(max(0, people["age"].min() - 2), people["age"].max() + 3),
    )
    axis.legend(frameon=False)
    return figure


def class_counts(labels):
    """Photos of each of the 18 classes."""
    counts = np.bincount(labels, minlength=len(SHORT))
    figure, axis = plt.subplots(figsize=(8, 5))
    axis.barh(
        range(len(SHORT)),
        counts,
        color=[(BLUE, ORANGE, GREEN)[label // 6] for label in range(len(SHORT))],
    )
    for label, count in enumerate(counts):
        axis.text(count, label, f" {count:,} ({count / counts.sum():.1%})", va="center", fontsize=8)
    axis.set_yticks(range(len(SHORT)), SHORT)
    axis.set(title="Photos by class", xlim=(0, counts.max() * 1.2))
    axis.invert_yaxis()
    return figure


def channel_histograms(histograms, mean, std):
    """Values of the red, green and blue pixels, 0 to 255; mean and standard deviation on 0 to 1."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    for name, colour, line, counts, m, s in zip(
        ("red", "green", "blue"),
        (RED, GREEN, BLUE),
        ("-", "--", ":"),
        histograms,
        mean,
        std,
        strict=True,
    ):
        axis.plot(
            np.arange(256),
            counts / counts.sum(),
            line,
            color=colour,
            label=f"{name}: mean {m:.3f}, std {s:.3f}",
        )
    axis.set(title="Pixel values", xlabel="value", yticks=[])
    axis.legend(frameon=False)
    return figure
