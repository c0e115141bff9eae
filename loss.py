"""Losses by name.

Each takes log-scores (B, 18) and class indices (B,) or soft targets (B, 18), and gives a scalar.
"""

import torch
import torch.nn.functional as F
from torch import nn

from core.errors import UserError
from core.labels import ATTRIBUTES, CLASSES


def soft_targets(target, classes: int):
    """Class indices (B,) or soft targets (B, C) -> soft targets (B, C) in float32."""
    return F.one_hot(target, classes).float() if target.ndim == 1 else target.float()


def scores_of(scores, attribute: str | None):
    """Log-scores (B, 18) -> those of the mask (B, 3), gender (B, 2) or age (B, 3); None: as is."""
    if attribute is None:
        return scores
    others = [1 + axis for axis, name in enumerate(ATTRIBUTES) if name != attribute]
    return scores.unflatten(1, [len(names) for names in ATTRIBUTES.values()]).logsumexp(others)


class CrossEntropy(nn.Module):
    """Cross-entropy with label smoothing: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567."""

    def __init__(self, smoothing: float = 0.0):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits, target):
        return F.cross_entropy(logits, target, label_smoothing=self.smoothing)


class Focal(nn.Module):
    """Focal loss, (1 - p)^gamma times the cross-entropy.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002.
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, target):
        log_p = logits.log_softmax(1)
        return (
            -(soft_targets(target, logits.shape[1]) * (1 - log_p.exp()) ** self.gamma * log_p)
            .sum(1)
            .mean()
        )


class SoftF1(nn.Module):
    """1 - macro-F1 with probabilities in place of decisions, over the classes present in the batch.

    A batch of 16 holds 8 or 9 of the 18 classes. An absent class has no true positives: its F1 and
    its gradient are 0, so it is left out of the mean. `memory` carries the counts of earlier
    batches along, decayed by that factor per batch, so that rare classes count; 0 forgets them.
    `everywhere` averages over all 18 classes, as the winning team did.
    On one-hot predictions it equals 1 - f1_score(average="macro") over the classes present.
    """

    def __init__(
        self,
        memory: float = 0.0,
        everywhere: bool = False,
        epsilon: float = 1e-7,
        classes: int = CLASSES,
    ):
        super().__init__()
        self.memory, self.everywhere, self.epsilon = memory, everywhere, epsilon
        # In the state (and so in a checkpoint) only where batches are carried along.
        self.register_buffer("counts", torch.zeros(3, classes), persistent=memory > 0)

    def forward(self, logits, target):
        probabilities = logits.float().softmax(1)
        truth = soft_targets(target, logits.shape[1])
        counts = torch.stack(
            [(probabilities * truth).sum(0), probabilities.sum(0), truth.sum(0)]
        )  # true positives, predicted, present
        if self.memory and self.training:
            counts = counts + self.memory * self.counts
            self.counts = counts.detach()
        hits, predicted, present = counts
        if (
            self.everywhere
        ):  # precision and recall each with the epsilon, as the competition's code has it
            precision, recall = hits / (predicted + self.epsilon), hits / (present + self.epsilon)
            f1 = 2 * precision * recall / (precision + recall + self.epsilon)
            return 1 - f1.clamp(self.epsilon, 1 - self.epsilon).mean()
        f1 = 2 * hits / (predicted + present + self.epsilon)
        weight = (present > 1e-3).float()
        return 1 - (f1 * weight).sum() / weight.sum()


class CrossEntropyF1(nn.Module):
    """`share` of soft F1 and the rest cross-entropy."""

    def __init__(
        self,
        share: float = 0.5,
        smoothing: float = 0.0,
        memory: float = 0.0,
        classes: int = CLASSES,
    ):
        super().__init__()
        self.share, self.cross_entropy = share, CrossEntropy(smoothing)
        self.f1 = SoftF1(memory, classes=classes)

    def forward(self, logits, target):
        return self.share * self.f1(logits, target) + (1 - self.share) * self.cross_entropy(
            logits, target
        )


CRITERIA = {
    "cross_entropy": lambda o: CrossEntropy(),
    "label_smoothing": lambda o: CrossEntropy(o["smoothing"]),
    "focal": lambda o: Focal(o["gamma"]),
    "f1": lambda o: SoftF1(o["memory"], classes=o["classes"]),
    "f1_winners": lambda o: SoftF1(everywhere=True),
    "cross_entropy_f1": lambda o: CrossEntropyF1(
        o["f1_share"], o["smoothing"], o["memory"], o["classes"]
    ),
}


def create_criterion(
    name: str, smoothing=0.1, gamma=2.0, f1_share=0.5, memory=0.0, classes=CLASSES
) -> nn.Module:
    """The criterion called `name`, for `classes` classes; UserError if there is none."""
    if name not in CRITERIA:
        raise UserError(f"--criterion: there is no loss {name!r}; known are {', '.join(CRITERIA)}")
    options = {"smoothing": smoothing, "gamma": gamma, "f1_share": f1_share, "memory": memory}
    return CRITERIA[name](options | {"classes": classes})


def completed(classes, scores):
    """Targets of a loss: class indices (B,) as they are, or probabilities (B, C) in their place.

    Possible classes (B, C), bool, get the model's own probabilities, 0 for the impossible ones. The
    gradient of the cross-entropy with them is that of -log P(the possible classes), the likelihood
    of the labels that are known (Dempster et al. 1977, on EM:
    https://doi.org/10.1111/j.2517-6161.1977.tb01600.x).
    """
    if classes.dtype != torch.bool:
        return classes
    return scores.detach().float().masked_fill(~classes, -torch.inf).softmax(1)


def years_target(age, years: int, sigma: float):
    """Ages (B,) -> (B, years): around each a normal distribution over the years, `sigma` wide."""
    distance = torch.arange(years, device=age.device) - age[:, None]
    return (-0.5 * (distance / sigma) ** 2).softmax(1)


def years_loss(logits, youngest, oldest, sigma: float):
    """Loss (B,) of predicted distributions over years, logits (B, years), for ages (B,).

    For an age, `youngest` = `oldest`, it is the cross-entropy with a normal distribution around it,
    `sigma` years wide; for a range, both included, -log P(range). So "60 or more" is a range up to
    the last year, and all years, an unknown age, cost nothing.
    Label distributions: Gao et al. 2017, https://arxiv.org/abs/1611.01731. Likelihood of a censored
    value: Tobin 1958, https://doi.org/10.2307/1907382.
    """
    log_p = logits.float().log_softmax(1)
    exact = -(years_target(youngest, log_p.shape[1], sigma) * log_p).sum(1)
    years = torch.arange(log_p.shape[1], device=log_p.device)
    outside = (years < youngest[:, None]) | (years > oldest[:, None])
    ranged = -log_p.masked_fill(outside, -torch.inf).logsumexp(1)
    return torch.where(youngest < oldest, ranged, exact)
