"""Optimizer and learning-rate schedule."""

import numpy as np
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from core.errors import UserError


def build_optimizer(model, args, fused: bool):
    """timm's optimizer: layer-wise learning rates in the backbone, no weight decay of norms and biases."""
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
    if name not in list_optimizers():
        raise UserError(
            f"--optimizer: timm has no {args.optimizer!r}; it has {', '.join(list_optimizers(exclude_filters=['bnb*']))}"
        )
    keywords = {"fused": True} if fused and name in ("adam", "adamw", "sgd") else {}
    return create_optimizer_v2(groups, opt=name, lr=args.lr, weight_decay=0.0, **keywords)


def build_schedule(optimizer, args, per_epoch: int):
    """timm's scheduler as a function of the update, which it sets on `optimizer`, and the run's learning rates in a line of words."""
    epochs = (
        args.scheduler == "winners"
    )  # theirs was stepped once an epoch: five epochs of warm-up never reach the peak
    warmup = round(args.warmup) if epochs else round(min(args.warmup, args.epochs / 2) * per_epoch)
    common = {
        "warmup_t": warmup,
        "warmup_lr_init": args.lr / 10,
        "warmup_prefix": True,
        "t_in_epochs": epochs,
    }
    if args.scheduler == "cosine":
        schedule = CosineLRScheduler(
            optimizer, max(2, args.epochs * per_epoch - warmup), lr_min=args.lr / 100, **common
        )
    else:
        schedule = StepLRScheduler(
            optimizer, args.lr_decay_step * (1 if epochs else per_epoch), decay_rate=0.5, **common
        )

    def step(update: int) -> float:
        schedule.step(update // per_epoch) if epochs else schedule.step_update(update)
        return max(group["lr"] for group in optimizer.param_groups)

    rates = [step(update) for update in range(args.epochs * per_epoch)]
    peak = int(np.argmax(rates))
    step(0)
    return step, (
        f"schedule: {args.scheduler}, {per_epoch} updates an epoch, {len(rates):,} in all; learning rate {rates[0]:.1e}, "
        f"at its peak {rates[peak]:.1e} (update {peak + 1:,}), at last {rates[-1]:.1e}"
    )
