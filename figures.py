"""The pictures of the reports (matplotlib), and the page that holds them: one HTML file that needs no other, PNGs beside it."""

import base64
import html
import io
import logging
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from PIL import Image

from cli import atomic
from dataset import ATTRIBUTES, CLASS_NAMES, OFFICIAL_BANDS
from transforms import PhotoError, load_photo

plt.switch_backend("Agg")  # no window
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of weights that a font has not

# Okabe and Ito's palette, told apart by colour-blind eyes: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
KOREAN = ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "UnDotum")
FONTS = [name for name in KOREAN if name in {font.name for font in font_manager.fontManager.ttflist}][:1]
plt.rcParams.update({"font.family": ["DejaVu Sans", *FONTS], "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
                     "axes.titlesize": 11, "axes.titleweight": "bold", "figure.constrained_layout.use": True,
                     "axes.unicode_minus": False, "savefig.dpi": 110})  # fmt: skip
SHORT = [name.replace("not wear", "none").replace("incorrect", "wrong").replace("wear", "worn") for name in CLASS_NAMES]
STYLE = """body{font:15px/1.5 system-ui,"Noto Sans KR","Malgun Gothic",sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}img{max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #eee}
.names{font-size:12px;columns:2;color:#444}"""


def write_page(output: Path, title: str, sections) -> Path:
    """output/index.html and a PNG for each figure. sections: (heading, html, figure or None), closed as they are drawn."""
    parts = []
    for number, (heading, text, figure) in enumerate(sections, start=1):
        parts.append(f"<h2>{html.escape(heading)}</h2>\n{text}")
        if figure is not None:
            stream = io.BytesIO()
            figure.savefig(stream, format="png")
            plt.close(figure)
            name = "-".join(re.findall(r"\w+", heading.lower())[:5])
            with atomic(output / f"{number:02d}-{name}.png") as temporary:
                temporary.write_bytes(stream.getvalue())
            parts.append(f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">')
    page = f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>\n'
    page += f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    with atomic(output / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output / "index.html"


def table(rows, header) -> str:
    """An HTML table of text and numbers."""
    cells = [[html.escape(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row] for row in rows]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f"<table><tr>{head}</tr>" + "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells) + "</table>"


# ---------------------------------------------------------------------------- of a run


def curves(metrics):
    """Loss and scores by epoch, from metrics.csv."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    left.plot(metrics["epoch"], metrics["loss"], "o-", color=GREY)
    left.set(title="Training loss", xlabel="epoch")
    if "macro_f1" in metrics:
        for name, colour, mark in (("macro_f1", RED, "o-"), ("mask", BLUE, "s--"), ("gender", GREEN, "^--"), ("age", ORANGE, "v--")):
            right.plot(metrics["epoch"], metrics[name], mark, color=colour, label=name.replace("macro_f1", "macro-F1"))
        right.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    right.set(title="Validation: macro-F1 and accuracies", xlabel="epoch", ylim=(0, 1.02))
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def confusion_matrix(counts, names, title, axis=None):
    """Rows the truth, columns the answers; colour is the share of the row, numbers are photos."""
    figure = None
    if axis is None:
        figure, axis = plt.subplots(figsize=(9.5, 8.5))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8 if len(names) > 3 else 10,
                  color="white" if share[row, column] > 0.55 else "black")  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 3 else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(title=title, xlabel="answer", ylabel="truth")
    axis.spines[:].set_visible(False)
    return figure


def attribute_confusions(labels, ans):
    """Three confusion matrices, one for each attribute."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.8))
    for axis, (name, values), of_truth, of_answer in zip(axes, ATTRIBUTES.items(), parts(labels), parts(ans), strict=True):
        counts = np.zeros((len(values), len(values)), int)
        np.add.at(counts, (of_truth, of_answer), 1)
        confusion_matrix(counts, values, f"{name}: {np.mean(of_truth == of_answer):.1%} right", axis)
    return figure


def parts(labels):
    """Labels (N,) -> mask, gender and age codes."""
    labels = np.asarray(labels)
    return labels // 6, labels // 3 % 2, labels % 3


def class_bars(class_f1, support):
    """F1 of each class, the number of its photos beside it."""
    figure, axis = plt.subplots(figsize=(8, 5.2))
    values = np.nan_to_num(class_f1)
    axis.barh(range(len(SHORT)), values, color=[(BLUE, ORANGE, GREEN)[label // 6] for label in range(len(SHORT))])
    for label, (value, count) in enumerate(zip(values, support, strict=True)):
        axis.text(value + 0.01, label, f"{value:.2f}, {count:,} photos", va="center", fontsize=8)
    axis.set_yticks(range(len(SHORT)), SHORT)
    axis.set(title="F1 by class", xlim=(0, 1.2))
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
    figure, axis = plt.subplots(figsize=(5.2, 4.6))
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    filled = counts > 0
    axis.plot(mean[filled], hit[filled], color=BLUE)
    axis.scatter(mean[filled], hit[filled], s=20 + 280 * counts[filled] / counts.max(), color=BLUE)
    axis.set(title=f"Calibration: error {error:.3f}", xlabel="confidence in the answer", ylabel="share of answers that are right",
             xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    return figure, error


def contact_sheet(paths, captions, columns=6, size=(160, 120)):
    """Photos in a grid (height, width of each in pixels) with captions below; and the list of their names in HTML, by number."""
    rows = -(-len(paths) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 11 / columns * (size[0] / size[1] + 0.32) * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, path, caption) in enumerate(zip(axes.flat, paths, captions, strict=False), start=1):
        try:
            axis.imshow(load_photo(path, size))
        except PhotoError as error:
            axis.imshow(np.full((*size, 3), 230, np.uint8))
            caption = f"{caption}\n({error.reason})"
        name = Path(path).name
        shown = name if name.isascii() or FONTS else ""
        shown = shown if len(shown) <= 16 else "…" + shown[-15:]
        axis.set_title(f"{number}  {shown}\n{caption}", fontsize=7, fontweight="normal", loc="left")
    names = "".join(f"<div>{number} {html.escape(str(path))}</div>" for number, path in enumerate(paths, start=1))
    return figure, f'<div class="names">{names}</div>'


def looked_at(paths, captions, heat, size, crop):
    """Photos as the model sees them (size and crop as load_photo takes them), with a heat map (H, W) in 0..1 laid over each."""
    figure, axes = plt.subplots(2, len(paths), figsize=(1.8 * len(paths), 5.4), squeeze=False)
    for column, (path, caption, warmth) in enumerate(zip(paths, captions, heat, strict=True)):
        photo = load_photo(path, size, crop)
        warm = np.asarray(Image.fromarray((warmth * 255).astype(np.uint8)).resize(size[::-1], Image.Resampling.BILINEAR))
        axes[0, column].imshow(photo)
        axes[0, column].set_title(caption, fontsize=7, fontweight="normal", loc="left")
        axes[1, column].imshow(photo)
        axes[1, column].imshow(warm, cmap="inferno", alpha=0.5, vmin=0, vmax=255)
        axes[0, column].axis("off")
        axes[1, column].axis("off")
    return figure


# ---------------------------------------------------------------------------- of several submissions


def agreement_matrix(agreement, names, title):
    """Shares of photos on which each two agree."""
    figure, axis = plt.subplots(figsize=(1.6 + 0.9 * len(names), 1.2 + 0.8 * len(names)))
    axis.imshow(agreement, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(agreement.shape):
        value = agreement[row, column]
        axis.text(column, row, f"{value:.1%}", ha="center", va="center", fontsize=8, color="white" if value > 0.55 else "black")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title)
    axis.spines[:].set_visible(False)
    return figure


# ---------------------------------------------------------------------------- of a data folder


def ages(people):
    """People by age in years, men and women apart, the bands drawn."""
    figure, axis = plt.subplots(figsize=(10, 3.8))
    bins = np.arange(0, people["age"].max() + 2)
    both = [people["age"][people["gender"] == gender] for gender in (0, 1)]
    axis.hist(both, bins, stacked=True, color=[BLUE, ORANGE], label=[f"male ({len(both[0]):,})", f"female ({len(both[1]):,})"])
    for bound in OFFICIAL_BANDS:
        axis.axvline(bound, color="black", linewidth=1)
    shares = [np.mean(people["age"] < 30), np.mean(people["age"].between(30, 59)), np.mean(people["age"] >= 60)]
    axis.set(title="People by age: " + ", ".join(f"{name} {share:.0%}" for name, share in zip(ATTRIBUTES["age"], shares, strict=True)),
             xlabel="age in years", ylabel="people", xlim=(max(0, people["age"].min() - 2), people["age"].max() + 3))  # fmt: skip
    axis.legend(frameon=False)
    return figure


def class_counts(labels):
    """Photos of each of the 18 classes."""
    counts = np.bincount(labels, minlength=len(SHORT))
    figure, axis = plt.subplots(figsize=(8, 5))
    axis.barh(range(len(SHORT)), counts, color=[(BLUE, ORANGE, GREEN)[label // 6] for label in range(len(SHORT))])
    for label, count in enumerate(counts):
        axis.text(count, label, f" {count:,} ({count / counts.sum():.1%})", va="center", fontsize=8)
    axis.set_yticks(range(len(SHORT)), SHORT)
    axis.set(title="Photos by class", xlim=(0, counts.max() * 1.2))
    axis.invert_yaxis()
    return figure


def channel_histograms(histograms, mean, std):
    """Values of the red, green and blue pixels, 0 to 255; mean and standard deviation on 0 to 1."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    for name, colour, line, counts, m, s in zip(("red", "green", "blue"), (RED, GREEN, BLUE), ("-", "--", ":"), histograms, mean, std,
                                                strict=True):  # fmt: skip
        axis.plot(np.arange(256), counts / counts.sum(), line, color=colour, label=f"{name}: mean {m:.3f}, std {s:.3f}")
    axis.set(title="Pixel values", xlabel="value", yticks=[])
    axis.legend(frameon=False)
    return figure
