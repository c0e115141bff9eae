"""What figures share: colours, fonts, class names, the confusion matrix, the photo grid."""

import logging
import re
import unicodedata
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager

from core.labels import ATTRIBUTES, CLASS_NAMES
from core.photo import PhotoError, load_photo

plt.switch_backend("Agg")  # no window
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # missing font weights

# Okabe and Ito's palette, safe for colour-blind people: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#666666"
MASK_COLOURS = (BLUE, ORANGE, GREEN)  # of the classes, by mask state

KOREAN_FONTS = (
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic"),
    *("Apple SD Gothic Neo", "AppleGothic", "UnDotum"),
)
KOREAN_FONT_FILES = r"notosans(cjk|kr)|nanumgothic\.|malgun|apple.*gothic|undotum"

# Names short enough for axes and captions.
SHORT = [name.replace("not wear", "not worn").replace("wear ", "worn ") for name in CLASS_NAMES]
SHORT_ATTRIBUTES = {**ATTRIBUTES, "mask": ("worn", "incorrect", "not worn")}


def korean_font() -> str | None:
    """The name of an installed font with Korean letters.

    Finds one installed after matplotlib made its list of fonts, too.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    if not known & set(KOREAN_FONTS):
        for file in font_manager.findSystemFonts():
            if re.match(KOREAN_FONT_FILES, Path(file).name.lower()):
                font_manager.fontManager.addfont(file)
        known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in KOREAN_FONTS if name in known), None)


KOREAN = korean_font()

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


def confusion_matrix(counts, names, title, axis=None):
    """Rows are labels, columns predictions; the colour is the share of the row, numbers are photos.

    Returns a new figure, or None if `axis` was given to draw on.
    """
    figure = None
    many = len(names) > 3
    if axis is None:
        figure, axis = plt.subplots(figsize=(9.2, 8.4))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    style = {"ha": "center", "va": "center", "fontsize": 8 if many else 10}
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if share[row, column] > 0.55 else "black"
        axis.text(column, row, f"{counts[row, column]:,}", **style, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=90 if many else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(title=title, xlabel="predicted", ylabel="label")
    axis.spines[:].set_visible(False)
    return figure


def contact_sheet(paths, captions, columns=6, size=(160, 120)):
    """A grid of photos, each `size` (height, width in pixels), with file name and caption above."""
    rows = -(-len(paths) // columns)
    height = 11 / columns * (size[0] / size[1] + 0.32) * rows
    figure, axes = plt.subplots(rows, columns, figsize=(11, height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    photos = zip(axes.flat, paths, captions, strict=False)
    for number, (axis, path, caption) in enumerate(photos, start=1):
        try:
            axis.imshow(load_photo(path, size))
        except PhotoError as error:
            axis.imshow(np.full((*size, 3), 230, np.uint8))
            caption = f"{caption}\n({error.reason})"
        title = f"{number}  {_shown_name(path)}\n{caption}"
        axis.set_title(title, fontsize=7, fontweight="normal", loc="left")
    return figure


def _shown_name(path) -> str:
    """The file's name, cut to 16 letters; a note where no font has its letters (never boxes)."""
    name = unicodedata.normalize("NFC", Path(path).name)  # macOS decomposes Korean syllables
    if not name.isascii() and not KOREAN:
        name = "(name: see page)"
    return name if len(name) <= 16 else "…" + name[-15:]
