"""Scores of 18-class predictions, their uncertainty, and decision offsets tuned for macro-F1.

Everywhere: `labels` is the ground truth and `ans` the predictions, (N,) whole numbers 0..17; an
axis of 18 is the classes in that order.
"""

import numpy as np

from core.labels import ATTRIBUTES, CLASSES, decode


# ---------------------------------------------------------------------------- scores
def confusion(labels, ans) -> np.ndarray:
    """(18, 18) counts, rows are labels, columns predictions.

    ValueError for unequal lengths, no rows, or classes outside 0..17.
    """
    from sklearn.metrics import confusion_matrix  # takes as long to import as PyTorch

    labels, ans = _classes(labels), _classes(ans, like=labels)
    return confusion_matrix(labels, ans, labels=np.arange(CLASSES))


def per_class_f1(labels, ans) -> np.ndarray:
    """(18,) F1 of every class; nan for a class in neither the labels nor the predictions."""
    from sklearn.metrics import f1_score

    labels, ans = _classes(labels), _classes(ans, like=labels)
    classes = np.arange(CLASSES)
    return f1_score(labels, ans, labels=classes, average=None, zero_division=np.nan)


def macro_f1(labels, ans) -> float:
    """Mean F1 over the classes present in labels or predictions: the competition's metric.

    Equals scikit-learn's `f1_score(average="macro")`, which is too slow for the thousands of scores
    that a bootstrap or the tuning of offsets takes.
    """
    labels, ans = _classes(labels), _classes(ans, like=labels)
    return float(np.nanmean(_f1(_counts(_tally(labels, ans, CLASSES)))))


def score(labels, ans, attribute: str | None = None) -> dict[str, float]:
    """macro_f1, accuracy, and the accuracies of mask, gender and age; all in 0..1.

    With `attribute` the macro_f1 and the accuracy of that one alone.
    """
    labels, ans = _classes(labels), _classes(ans, like=labels)
    if attribute:
        axis = list(ATTRIBUTES).index(attribute)
        labels, ans = decode(labels)[axis], decode(ans)[axis]
        return {"macro_f1": macro_f1(labels, ans), "accuracy": float(np.mean(labels == ans))}
    scores = {"macro_f1": macro_f1(labels, ans), "accuracy": float(np.mean(labels == ans))}
    for attribute, label, predicted in zip(ATTRIBUTES, decode(labels), decode(ans), strict=True):
        scores[attribute] = float(np.mean(label == predicted))
    return scores


def _classes(values, like=None) -> np.ndarray:
    values = np.asarray(values)
    if (
        values.ndim != 1
        or not len(values)
        or values.dtype.kind not in "iu"
        or values.min() < 0
        or values.max() >= CLASSES
    ):
        raise ValueError(
            f"expected whole numbers 0..{CLASSES - 1} of shape (N,), "
            f"got {values.dtype} of shape {values.shape}"
        )
    if like is not None and len(values) != len(like):
        raise ValueError(f"{len(like)} labels but {len(values)} predictions")
    return values.astype(np.int64)


def _tally(groups, classes, count: int) -> np.ndarray:
    """(count, 18): how often each class occurs in each of `count` groups."""
    return np.bincount(groups * CLASSES + classes, minlength=count * CLASSES).reshape(
        count, CLASSES
    )


def _counts(table: np.ndarray) -> np.ndarray:
    """Confusion (18, 18) -> (3, 18): hits, photos and predictions of each class, for F1."""
    return np.stack([table.diagonal(), table.sum(axis=1), table.sum(axis=0)])


def _f1(counts: np.ndarray) -> np.ndarray:
    """(..., 3, 18) counts -> (..., 18) F1, nan where a class is in neither."""
    hits, photos, predictions = np.moveaxis(counts, -2, 0)
    with np.errstate(invalid="ignore"):
        return 2 * hits / (photos + predictions)


# ---------------------------------------------------------------------------- uncertainty
def bootstrap(labels, ans, person, repeats: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(low, high): the 95% bootstrap percentile interval of macro-F1, people resampled.

    `person` (N,) names whom each photo shows. Photos of a person share a face, so that resampling
    photos would give too narrow an interval (the cluster bootstrap: Davison and Hinkley 1997,
    section 3.8). Each resample is scored over the classes it holds.
    """
    low, high = np.percentile(_resample(labels, [ans], person, repeats, seed)[:, 0], [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(
    labels, ans_a, ans_b, person, repeats: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How much better `ans_a` is than `ans_b` in macro-F1, on the same resamples of people.

    difference: the mean of a - b; low, high: its 95% interval; share: of the resamples in which a
    scores higher (a tie does not count).
    """
    scores = _resample(labels, [ans_a, ans_b], person, repeats, seed)
    differences = scores[:, 0] - scores[:, 1]
    low, high = np.percentile(differences, [2.5, 97.5])
    return {
        "difference": float(differences.mean()),
        "low": float(low),
        "high": float(high),
        "share": float(np.mean(differences > 0)),
    }


def _resample(labels, predictions: list, person, repeats: int, seed: int) -> np.ndarray:
    """(repeats, len(predictions)) macro-F1.

    Counts are summed per person once, so that a resample is one matrix product.
    """
    labels = _classes(labels)
    people, who = np.unique(np.asarray(person), return_inverse=True)
    if len(who) != len(labels):
        raise ValueError(f"{len(labels)} labels but {len(who)} persons")
    size = len(people)
    counts = []  # of each `ans`: hits, photos and predictions of each class, (people, 18) each
    for ans in (_classes(ans, like=labels) for ans in predictions):
        right = labels == ans
        counts += [
            _tally(who[right], labels[right], size),
            _tally(who, labels, size),
            _tally(who, ans, size),
        ]
    rows = np.hstack(counts).astype(float)
    generator = np.random.default_rng(seed)
    scores = np.empty((repeats, len(predictions)))
    for repeat in range(repeats):
        drawn = np.bincount(generator.integers(size, size=size), minlength=size)
        counts = (drawn @ rows).reshape(len(predictions), 3, CLASSES)
        scores[repeat] = np.nanmean(_f1(counts), axis=-1)
    return scores


# ---------------------------------------------------------------------------- decision offsets
FREQUENCY_SHARE = 0.25  # how much of the class frequencies to take back: docs/experiments.md


def frequency_offsets(attributes, weights=None, share: float = FREQUENCY_SHARE) -> np.ndarray:
    """(18,) offsets to add to log-probabilities, so that rare classes are predicted more often.

    -share * log(frequency), summed over mask, gender and age band, from those of the training
    photos, (N,) each, -1 where one is unknown; `weights` (N,) are the photos' sampling
    probabilities. Equally frequent classes get zeros.
    A share of 1 decides as if the classes were balanced (logit adjustment: Menon et al. 2021,
    https://arxiv.org/abs/2007.07314) and 0 for accuracy; the best thresholds for F1 lie between
    (Lipton et al. 2014, https://arxiv.org/abs/1402.1892). Nothing is tuned on held-out people.
    """
    photos = len(attributes[0])
    weights = np.ones(photos) if weights is None else weights * photos
    offsets = np.zeros(CLASSES)
    axes = zip(ATTRIBUTES.values(), attributes, decode(np.arange(CLASSES)), strict=True)
    for names, of_photo, of_class in axes:
        known = of_photo >= 0
        counts = np.bincount(of_photo[known], weights[known], len(names))
        rarity = -np.log(np.maximum(counts, 1) / photos)  # absent values count as one photo
        offsets += share * (rarity - rarity.mean())[of_class]
    return offsets


# Natural logarithms: a factor of 1/7.4 to 7.4 on the odds, in steps of 5%.
GRID = np.linspace(-2, 2, 81)


def tune_offsets(log_probabilities, labels, tolerance: float = 5e-4) -> np.ndarray:
    """(18,) offsets to add to (N, 18) log-probabilities before the argmax, tuned for macro-F1.

    Moves the decision thresholds (Lipton et al. 2014, https://arxiv.org/abs/1402.1892; logit
    adjustment: Menon et al. 2021, https://arxiv.org/abs/2007.07314). An offset is the sum of one
    for the mask, one for the gender and one for the age band: 8 numbers instead of 18, less to
    overfit. Coordinate ascent over GRID from zero; a step is taken only if it gains more than
    `tolerance` of macro-F1, and all stay zero if none does. Deterministic. Give it out-of-fold
    predictions, never the photos trained on. ValueError for other shapes or non-finite values.
    """
    scores, labels = np.array(log_probabilities, dtype=float), _classes(labels)
    if scores.shape != (len(labels), CLASSES) or not np.isfinite(scores).all():
        raise ValueError(
            f"expected finite log-probabilities of shape ({len(labels)}, {CLASSES}), "
            f"got {scores.shape}"
        )
    best = start = macro_f1(labels, scores.argmax(axis=1))
    offsets = np.zeros(CLASSES)
    values = {
        (axis, value): 0.0
        for axis, names in enumerate(ATTRIBUTES.values())
        for value in range(len(names))
    }
    # The argmax below takes the first of equals: the one nearest zero.
    grid = GRID[np.argsort(np.abs(GRID), kind="stable")]
    improved = True
    while improved:
        improved = False
        for (axis, value), current in values.items():
            inside = decode(np.arange(CLASSES))[axis] == value
            scored = _sweep(scores + offsets - current * inside, labels, inside, grid)
            if scored.max() > best + tolerance:
                best, values[axis, value] = scored.max(), grid[scored.argmax()]
                offsets = offsets + (values[axis, value] - current) * inside
                improved = True
    # sums round differently in another order: what is returned must gain by itself
    return (
        offsets
        if macro_f1(labels, (scores + offsets).argmax(axis=1)) > start + tolerance
        else np.zeros(CLASSES)
    )


def cross_fitted_offsets(log_probabilities, labels, fold) -> tuple[np.ndarray, float, float]:
    """Offsets tuned on all out-of-fold predictions, macro-F1 without them, and with them.

    For the last, which is not optimistic, the offsets of each fold (N,) are tuned on the others.
    """
    ans = np.array(log_probabilities).argmax(axis=1)
    before = macro_f1(labels, ans)
    for number in np.unique(fold):
        inside = fold == number
        ans[inside] = (
            log_probabilities[inside] + tune_offsets(log_probabilities[~inside], labels[~inside])
        ).argmax(axis=1)
    return tune_offsets(log_probabilities, labels), before, macro_f1(labels, ans)


def _sweep(scores, labels, inside, grid) -> np.ndarray:
    """(len(grid),) macro-F1 for each value of `grid` added to the classes `inside`.

    The prediction is the best class inside or the best outside: two columns are enough.
    """
    classes_in, classes_out = np.flatnonzero(inside), np.flatnonzero(~inside)
    best_in, best_out = (
        classes_in[scores[:, inside].argmax(axis=1)],
        classes_out[scores[:, ~inside].argmax(axis=1)],
    )
    lead = scores[:, ~inside].max(axis=1) - scores[:, inside].max(axis=1)
    predictions = (np.where(value > lead, best_in, best_out) for value in grid)
    return np.array([macro_f1(labels, ans) for ans in predictions])
