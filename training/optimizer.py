"""Optimizer and learning-rate schedule."""

from importlib.util import find_spec

import numpy as np
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_layer_decay,
)
from timm.optim.lamb import Lamb
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from core.errors import UserError, first_line


def check_optimizer(name: str) -> None:
    """UserError for a name that timm has not, and for an optimizer that cannot run here."""
    if name.lower() not in list_optimizers():
        known = ", ".join(list_optimizers(exclude_filters=["bnb*"]))
        raise UserError(f"--optimizer: timm has no {name!r}; it has {known}")
    reason = _why_unusable(name.lower())
    if reason:
        raise UserError(f"--optimizer {name}: cannot be used here ({reason}); choose another")


def _why_unusable(name: str) -> str | None:
    if get_optimizer_info(name).second_order:
        return "it needs second derivatives, which training does not compute"
    if name.startswith("kron") and not find_spec("opt_einsum"):  # takes over 100 GB without
        return "it needs a package: pip install opt_einsum"
    try:
        get_optimizer_class(name)
    except (AssertionError, ImportError) as error:  # of packages for NVIDIA GPUs
        return first_line(error)
    return None


def build_optimizer(model, args, fused: bool):
    """timm's optimizer: layer-wise learning rates, no weight decay of norms and biases."""
    skip = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(
        model.backbone, args.weight_decay, skip, layer_decay=args.layer_decay
    )
    for decayed in (True, False):
        own = [p for p in model.head.parameters() if (p.ndim > 1) == decayed]
        groups.append(
            {"params": own, "weight_decay": args.weight_decay if decayed else 0.0, "lr_scale": 1.0}
        )
    name = args.optimizer.lower()
    keywords = {"fused": True} if fused and name in ("adam", "adamw", "sgd") else {}
    if issubclass(get_optimizer_class(name, bind_defaults=False), Lamb):
        keywords["max_grad_norm"] = None  # --clip alone clips
        for group in groups:  # without weight decay too, which timm would train as Adam does
            group["always_adapt"] = all(p.ndim > 1 for p in group["params"])
    return create_optimizer_v2(groups, opt=name, lr=args.lr, weight_decay=0.0, **keywords)


class Schedule:
    """timm's scheduler: `set(update)` sets the learning rate for an update, counted from 0.

    A function of the update, and for `plateau` of the scores so far, so that a resumed run needs
    nothing else. `str` gives the rates of the run in one line.
    """

    def __init__(self, optimizer, args, epochs: int, per_epoch: int):
        self.optimizer, self.per_epoch, self.name = optimizer, per_epoch, args.scheduler
        self.updates, self.patience = epochs * per_epoch, args.lr_decay_step
        # The winners' was stepped once an epoch: five epochs of warm-up never reach the peak.
        self.by_epoch = args.scheduler == "winners"
        warmup = round(min(args.warmup, epochs / 2) * per_epoch)
        common = {
            "warmup_t": round(args.warmup) if self.by_epoch else warmup,
            "warmup_lr_init": args.lr / 10,
            "warmup_prefix": True,
            "t_in_epochs": self.by_epoch,
        }
        if args.scheduler == "cosine":
            length = max(2, self.updates - warmup)
            self.scheduler = CosineLRScheduler(optimizer, length, lr_min=args.lr / 100, **common)
        else:
            period = args.lr_decay_step * (1 if self.by_epoch else per_epoch)
            if args.scheduler == "plateau":
                period = self.updates + 1  # halved in `set` instead
            self.scheduler = StepLRScheduler(optimizer, period, decay_rate=0.5, **common)

    def set(self, update: int, scores=()) -> float:
        """Set the learning rate for `update`, given the scores of the epochs so far; the rate."""
        if self.by_epoch:
            self.scheduler.step(update // self.per_epoch)
        else:
            self.scheduler.step_update(update)
        if self.name == "plateau":
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.5 ** halvings(scores, self.patience)
        return max(group["lr"] for group in self.optimizer.param_groups)

    def __str__(self):
        rates = [self.set(update) for update in range(self.updates)]
        self.set(0)
        peak = int(np.argmax(rates))
        return (
            f"schedule: {self.name}, {self.per_epoch} updates an epoch, {len(rates):,} in all; "
            f"learning rate {rates[0]:.1e}, at its peak {rates[peak]:.1e} (update {peak + 1:,}), "
            f"finally {rates[-1]:.1e}"
        )


def halvings(scores, patience: int) -> int:
    """How often `patience` epochs have passed without a better score since the last change."""
    best, since, count = float("-inf"), 0, 0
    for score in scores:
        since = 0 if score > best else since + 1
        best = max(best, score)
        if since == patience:
            count, since = count + 1, 0
    return count
