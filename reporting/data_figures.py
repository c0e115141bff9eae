"""Figures of the page on a train folder."""

import matplotlib.pyplot as plt
import numpy as np

from core.figures import BLUE, GREEN, MASK_COLOURS, ORANGE, RED, SHORT
from core.labels import AGES, OFFICIAL_BANDS, age_band


def ages(people):
    """A histogram of people by age in years, coloured by gender, with the age bands' borders."""
    figure, axis = plt.subplots(figsize=(10, 3.8))
    by_gender = [people["age"][people["gender"] == gender] for gender in (0, 1)]
    counts = [f"{len(ages):,}" for ages in by_gender]
    labels = [f"male ({counts[0]})", f"female ({counts[1]})"]
    years = np.arange(0, people["age"].max() + 2)
    axis.hist(by_gender, years, stacked=True, color=[BLUE, ORANGE], label=labels)
    for border in OFFICIAL_BANDS:
        axis.axvline(border, color="black", linewidth=1)
    shares = np.bincount(age_band(people["age"]), minlength=len(AGES)) / len(people)
    bands = ", ".join(f"{name} {share:.0%}" for name, share in zip(AGES, shares, strict=True))
    limits = (max(0, people["age"].min() - 2), people["age"].max() + 3)
    axis.set(title=f"People by age: {bands}", xlabel="age in years", ylabel="people", xlim=limits)
    axis.legend(frameon=False)
    return figure


def class_counts(labels):
    """A bar for the number of photos of each of the 18 classes."""
    counts = np.bincount(labels, minlength=len(SHORT))
    rows = np.arange(len(SHORT))
    figure, axis = plt.subplots(figsize=(8, 5))
    axis.barh(rows, counts, color=[MASK_COLOURS[label // 6] for label in rows])
    for label, count in enumerate(counts):
        axis.text(count, label, f" {count:,} ({count / counts.sum():.1%})", va="center", fontsize=8)
    axis.set_yticks(rows, SHORT)
    axis.set(title="Photos by class", xlim=(0, counts.max() * 1.2))
    axis.invert_yaxis()
    return figure


def channel_histograms(histograms, mean, std):
    """Histograms (3, 256) of the red, green and blue values; mean and std (3,) in 0..1."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    lines = (("red", RED, "-"), ("green", GREEN, "--"), ("blue", BLUE, ":"))
    for (name, colour, line), counts, m, s in zip(lines, histograms, mean, std, strict=True):
        label = f"{name}: mean {m:.3f}, std {s:.3f}"
        axis.plot(np.arange(256), counts / counts.sum(), line, color=colour, label=label)
    axis.set(title="Pixel values", xlabel="value", yticks=[])
    axis.legend(frameon=False)
    return figure


def photo_rows(rows):
    """Photos of one size, (H, W, 3) pixels each, in rows."""
    columns, (height, width) = len(rows[0]), rows[0][0].shape[:2]
    size = (1.5 * columns, 1.5 * len(rows) * height / width)
    apart = {"wspace": 0.03, "hspace": 0.03}
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False, gridspec_kw=apart)
    for row, pixels in zip(axes, rows, strict=True):
        for axis, photo in zip(row, pixels, strict=True):
            axis.imshow(photo)
            axis.axis("off")
    return figure
