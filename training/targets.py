"""What the loss learns from: the classes and the ages that are known of the training photos."""

from dataclasses import dataclass

import numpy as np
import torch

from core.extra_photos import possible_classes
from core.labels import CLASSES, encode
from model import YEARS


@dataclass(frozen=True)
class Targets:
    """Of photos, a row each.

    `classes` are class indices (N,) or, where some labels are unknown, (N, 18) bool: the classes
    that are possible. A person is `youngest` to `oldest` years old, (N,) each.
    """

    classes: torch.Tensor
    youngest: torch.Tensor
    oldest: torch.Tensor

    def __getitem__(self, rows) -> "Targets":
        return Targets(self.classes[rows], self.youngest[rows], self.oldest[rows])


def targets_of(frame, extra, bands, device) -> Targets:
    """Of the training photos and the `extra` ones, whose labels may be unknown.

    The highest age of the training people is censored: it means "this old or older".
    """
    classes = encode(frame["mask"], frame["gender"], frame["age"], bands).to_numpy(copy=True)
    if len(extra):
        classes = np.concatenate([np.eye(CLASSES)[classes] > 0, possible_classes(extra, bands)])
    ages, top = frame["age"].to_numpy(), min(int(frame["age"].max()), YEARS - 1)
    youngest = np.concatenate([ages.clip(max=top), extra["youngest"]])
    oldest = np.concatenate([np.where(ages >= top, YEARS - 1, ages), extra["oldest"]])
    columns = (classes, youngest.clip(max=YEARS - 1), oldest.clip(max=YEARS - 1))
    return Targets(*(torch.from_numpy(column).to(device) for column in columns))
