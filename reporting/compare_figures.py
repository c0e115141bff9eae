"""Figures of the page on several submissions."""

import matplotlib.pyplot as plt
import numpy as np

from core.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SHORT, SKY

LABELS = "labels"  # the name under which by_class marks the ground truth apart
SERIES = (
    *((BLUE, "o"), (RED, "D"), (GREEN, "s"), (ORANGE, "^")),
    *((PURPLE, "v"), (SKY, "P"), (GREY, "X"), ("black", "*")),
)


def agreement_matrix(agreement, names, title):
    """The shares of photos (n, n) on which each two of n submissions agree."""
    longest = max(map(len, names))
    side = max(0.62 * len(names) + 0.09 * longest + 1.1, 2.6)
    figure, axis = plt.subplots(figsize=(side, side))
    low = min(0.5, agreement.min())
    axis.imshow(agreement, cmap="Blues", vmin=low, vmax=1)
    for row, column in np.ndindex(agreement.shape):
        value = agreement[row, column]
        text = f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"
        colour = "white" if value > low + 0.6 * (1 - low) else "black"
        axis.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 5 else {}
    axis.set_xticks(range(len(names)), names, **turned)
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title)
    axis.spines[:].set_visible(False)
    return figure


def by_class(values, names, title):
    """A row of marks for each class, one mark a submission.

    values (n, 18), nan where there is nothing to show; the name LABELS is marked by a line.
    """
    figure, axis = plt.subplots(figsize=(6.3, 6.4))
    rows = np.arange(len(SHORT))
    for row, of_class in enumerate(values.T):
        axis.plot(of_class, [row] * len(of_class), color="#bbbbbb", linewidth=2, zorder=1)
    for name, of_one, (colour, mark) in zip(names, values, SERIES * len(names), strict=False):
        size, colour, mark = (130, "black", "|") if name == LABELS else (42, colour, mark)
        style = {"s": size, "color": colour, "marker": mark, "zorder": 2, "alpha": 0.85}
        axis.scatter(of_one, rows, label=name, **style)
    for line in (5.5, 11.5):  # between the mask states
        axis.axhline(line, color="#cccccc", linewidth=1)
    axis.set_yticks(rows, SHORT)
    axis.set_title(title)
    axis.set_xlim(left=0)
    axis.grid(axis="x", color="#e4e4e4")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    return figure
