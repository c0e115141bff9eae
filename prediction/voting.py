"""Votes over the predictions of several models."""

import numpy as np

from core.labels import decode, join


def cast_votes(method: str, ans, weights=None, probabilities=None) -> np.ndarray:
    """The voted classes (N,) int8.

    `ans` (members, N), the best member first; `weights` (members,) for "weighted"; `probabilities`,
    an (N, 18) array for each member, for "soft" (an iterable: they need not be in memory at once).
    """
    if method == "soft":
        return sum(probabilities).argmax(axis=1).astype(np.int8)
    if method == "attribute":
        return join(*(plurality(codes) for codes in decode(ans)))
    return plurality(ans, weights if method == "weighted" else None)


def plurality(ans: np.ndarray, weights=None) -> np.ndarray:
    """For each photo the class with most votes, (N,) in the dtype of `ans`.

    `ans` (members, N), the best member first: the first of those tied wins; `weights` (members,),
    at least 0, one each where not given.
    """
    weights = np.ones(len(ans)) if weights is None else np.asarray(weights, dtype=float)
    support = np.zeros(ans.shape)  # (members, N): the weight of all who predict as this member does
    for own, predicted in zip(support, ans, strict=True):
        for other, weight in zip(ans, weights, strict=True):
            own += weight * (other == predicted)
    most = support.max(axis=0) - 1e-9  # equal sums of weights may differ in their last digits
    first = (support >= most).argmax(axis=0)  # argmax: the first member of those tied
    return np.take_along_axis(ans, first[None], axis=0)[0]
