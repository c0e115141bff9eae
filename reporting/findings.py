"""What the figures of a report show, in sentences."""

import numpy as np
import pandas as pd

from core import metrics
from core.figures import SHORT
from core.labels import ATTRIBUTES, decode


def learning(epochs: list[pd.DataFrame]) -> list[str]:
    """Whether the run converged, from metrics.csv of the run or of each fold.

    Empty for a single validation or none.
    """
    if not epochs or any("macro_f1" not in table for table in epochs):
        return []
    epochs = [table.dropna(subset="macro_f1") for table in epochs]  # epochs not validated
    if min(map(len, epochs)) < 2:
        return []
    best = [int(table["epoch"][table["macro_f1"].idxmax()]) for table in epochs]
    last = int(epochs[0]["epoch"].iloc[-1])
    first = np.mean([table["macro_f1"].iloc[0] for table in epochs])
    top = np.mean([table["macro_f1"].max() for table in epochs])
    last_gain = np.mean([table["macro_f1"].diff().iloc[-1] for table in epochs])
    if min(best) == last and last_gain > 0.005:
        verdict = "It was still rising at the end: more epochs may help."
    elif max(best) >= last - 1:
        verdict = "It had converged."
    else:
        verdict = "The epochs after that did not help."
    return [
        f"Macro-F1 was {first:.3f} at the first validation and {top:.3f} at its best, in epoch "
        f"{' / '.join(map(str, best))} of {last}. {verdict}"
    ]


def mistakes(labels, ans, class_f1) -> list[str]:
    """Which attributes, classes and pairs of classes are confused."""
    wrong = labels != ans
    if not wrong.any():
        return ["Every photo is classified correctly."]
    codes = zip(ATTRIBUTES, decode(labels), decode(ans), strict=True)
    by_attribute = {name: int((label != predicted).sum()) for name, label, predicted in codes}
    counts = ", ".join(
        f"{name} in {count:,}" for name, count in sorted(by_attribute.items(), key=lambda x: -x[1])
    )
    pairs, times = np.unique(np.stack([labels, ans])[:, wrong], axis=1, return_counts=True)
    label, predicted = pairs[:, times.argmax()]
    weakest = np.argsort(np.where(np.isnan(class_f1), 2, class_f1))[:3]
    weak = ", ".join(f"{SHORT[weak]} ({class_f1[weak]:.2f})" for weak in weakest)
    return [
        f"{wrong.sum():,} of {len(labels):,} photos are misclassified. Wrong attributes: {counts}.",
        f"Classes with the lowest F1: {weak}. The most frequent confusion: {SHORT[label]} "
        f"predicted as {SHORT[predicted]} ({times.max():,} photos).",
    ]


def calibration(confidence, right) -> str:
    """Whether confidence (N,) matches accuracy; right (N,): whether each prediction is correct."""
    gap = float(confidence.mean() - right.mean())
    if abs(gap) < 0.05:
        verdict = "well calibrated on average"
    else:
        verdict = "overconfident" if gap > 0 else "underconfident"
    return (
        f"Mean confidence is {confidence.mean():.0%}, accuracy {right.mean():.0%}: the model is "
        f"{verdict}."
    )


def better(a: str, b: str, of_a, of_b, labels) -> list[str]:
    """Which of the submissions a and b scores higher, and whether that may be chance."""
    test = metrics.paired_bootstrap(labels, of_b, of_a, np.arange(len(labels)))
    gain = metrics.macro_f1(labels, of_b) - metrics.macro_f1(labels, of_a)
    chance = "may be chance" if test["low"] <= 0 <= test["high"] else "is more than chance"
    before, after = metrics.score(labels, of_a), metrics.score(labels, of_b)
    accuracies = ", ".join(f"{name} {before[name]:.1%} to {after[name]:.1%}" for name in ATTRIBUTES)
    differ = of_a != of_b
    right_a, right_b = (int((ans == labels)[differ].sum()) for ans in (of_a, of_b))
    neither = int(differ.sum()) - right_a - right_b
    return [
        f"{b} scores {abs(gain):.4f} {'higher' if gain >= 0 else 'lower'} than {a} in macro-F1 "
        f"(95% interval of the difference: {test['low']:+.3f} to {test['high']:+.3f}, bootstrap "
        f"over photos); the difference {chance}. Accuracy from {a} to {b}: {accuracies}.",
        f"On the {differ.sum():,} photos where they differ, {a} is right on {right_a:,}, {b} on "
        f"{right_b:,}, neither on {neither:,}.",
    ]


def changes(names, predictions, labels) -> list[tuple]:
    """How predictions change from the first submission to each other one, most frequent first.

    Rows of (class in the first, other submission, class there, photos); with labels also the
    photos on which the first, the other, and neither is right.
    """
    rows = []
    for name, ans in zip(names[1:], predictions[1:], strict=True):
        pairs = pd.DataFrame({"a": predictions[0], "b": ans})
        pairs["label"] = -1 if labels is None else labels
        for (a, b), group in pairs[pairs["a"] != pairs["b"]].groupby(["a", "b"]):
            right = [int((group["label"] == label).sum()) for label in (a, b)]
            verdict = () if labels is None else (*right, len(group) - sum(right))
            rows.append((SHORT[a], name, SHORT[b], len(group), *verdict))
    return sorted(rows, key=lambda row: -row[3])
