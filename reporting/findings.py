"""What the figures of a report say, in sentences: of a run, and of submissions side by side."""

import numpy as np
import pandas as pd

from core import metrics
from reporting.figures import SHORT, parts


# ---------------------------------------------------------------------------- of a run
def learning(epochs: list) -> list[str]:
    """Whether it learned, in a sentence, from metrics.csv of the run or of each fold; none where there is nothing to tell."""
    if not epochs or any("macro_f1" not in table or len(table) < 2 for table in epochs):
        return []
    best = [int(table["epoch"][table["macro_f1"].idxmax()]) for table in epochs]
    last = int(epochs[0]["epoch"].iloc[-1])
    first, top = (
        sum(values) / len(values)
        for values in zip(
            *((t["macro_f1"].iloc[0], t["macro_f1"].max()) for t in epochs), strict=True
        )
    )
    text = f"Macro-F1 went from {first:.3f} after the first epoch to {top:.3f} at its best, epoch {' / '.join(map(str, best))} of {last}: "
    gain = sum(table["macro_f1"].iloc[-1] - table["macro_f1"].iloc[-2] for table in epochs) / len(
        epochs
    )
    if min(best) == last and gain > 0.005:
        return [text + "it was still rising at the end, so more epochs may help."]
    return [
        text + ("it had settled." if max(best) >= last - 1 else "what came after did not help.")
    ]


def where_wrong(labels, ans, class_f1) -> list[str]:
    """Which attributes and classes the wrong answers are about, in sentences."""
    wrong = int((labels != ans).sum())
    if not wrong:
        return ["No answer is wrong."]
    both = zip(("mask", "gender", "age"), parts(labels), parts(ans), strict=True)
    by = {name: int((truth != answer).sum()) for name, truth, answer in both}
    order = sorted(by, key=by.get, reverse=True)
    pairs, times = np.unique(np.stack([labels, ans])[:, labels != ans], axis=1, return_counts=True)
    truth, answer = pairs[:, times.argmax()]
    weak = np.argsort(np.where(np.isnan(class_f1), 2, class_f1))[:3]
    return [
        f"Of {wrong:,} wrong answers "
        + ", ".join(f"{by[name]:,} have a wrong {name}" for name in order)
        + ".",
        "Weakest classes: "
        + ", ".join(f"{SHORT[label]} ({class_f1[label]:.2f})" for label in weak)
        + f". Most often, {SHORT[truth]} is taken for {SHORT[answer]} ({times.max():,} photos).",
    ]


def trust(confidence, right) -> str:
    """Whether the confidence of the answers can be believed, in a sentence."""
    gap = float(confidence.mean() - right.mean())
    believed = (
        "which fits"
        if abs(gap) < 0.05
        else "so it is too sure of itself"
        if gap > 0
        else "so it is better than it says"
    )
    return f"Its answers say they are right with {confidence.mean():.0%} on average, and {right.mean():.0%} are: {believed}."


# ---------------------------------------------------------------------------- of submissions
def better(a: str, b: str, of_a, of_b, truth) -> list[str]:
    """Which of two submissions scores higher, whether that may be luck, and what they win and lose where they differ: sentences."""
    test = metrics.paired_bootstrap(truth, of_b, of_a, np.arange(len(truth)))
    gain = metrics.macro_f1(truth, of_b) - metrics.macro_f1(truth, of_a)
    lucky = "that may be luck" if test["low"] <= 0 <= test["high"] else "that is no luck"
    apart = of_a != of_b
    right_a, right_b = (int((ans == truth)[apart].sum()) for ans in (of_a, of_b))
    parts = [
        f"{name} {before:.1%} to {after:.1%}"
        for name, before, after in (
            (key, metrics.score(truth, of_a)[key], metrics.score(truth, of_b)[key])
            for key in ("mask", "gender", "age")
        )
    ]
    return [
        f"{b} scores {abs(gain):.4f} {'more' if gain >= 0 else 'less'} than {a} in macro-F1 (95 %: {test['low']:+.3f} to "
        f"{test['high']:+.3f}, photos drawn again): {lucky}. From {a} to {b}: {', '.join(parts)} right.",
        f"Of the {apart.sum():,} photos on which they differ {a} is right on {right_a:,}, {b} on {right_b:,}, neither on "
        f"{apart.sum() - right_a - right_b:,}.",
    ]


def flows(names, answers, truth) -> list[tuple]:
    """The changes of answer from the first submission to each other one, the commonest first, and who is right where the truth is known."""
    rows = []
    for name, ans in zip(names[1:], answers[1:], strict=True):
        pairs = pd.DataFrame({"a": answers[0], "b": ans})
        pairs["truth"] = -1 if truth is None else truth
        for (a, b), group in pairs[pairs["a"] != pairs["b"]].groupby(["a", "b"]):
            right = [int((group["truth"] == label).sum()) for label in (a, b)]
            verdict = (*right, len(group) - sum(right)) if truth is not None else ()
            rows.append((SHORT[a], name, SHORT[b], len(group), *verdict))
    return sorted(rows, key=lambda row: -row[3])
