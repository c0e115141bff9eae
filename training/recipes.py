"""Recipes: named sets of flags; the defaults that depend on the model. No slow imports."""

BATCH_SIZE = 32  # but for transformers

RECIPES = {
    # What train.sh runs with the user's own data: the defaults, chosen in docs/experiments.md.
    "default": {},
    # For a weekend: the mean of five defaults that differ in their seed, trained on everybody. What
    # that gains is in docs/accuracy.md; with --val_ratio 0.2 it is scored.
    "best": {"members": 5, "val_ratio": 0.0},
    # What the winning team ran, number by number. Deviations: the split is by person; their first
    # epoch's learning rate is not on record (our warm-up begins at a tenth of the peak); mean and
    # std are ImageNet's, because theirs were measured on photos without background.
    "winners": {
        "model": "SwinTransformerLarge384",
        "resize": [384, 384],
        "crop": [320, 256],
        "augmentation": "winners",
        "epochs": 5,
        "batch_size": 16,
        "lr": 2e-5,
        "optimizer": "AdamW",
        "weight_decay": 0.01,
        "criterion": "f1_winners",
        "bands": [29, 57],
        "head": "joint",
        "scheduler": "winners",
        "lr_decay_step": 4,
        "warmup": 5.0,
        "layer_decay": 1.0,
        "ema": 0.0,
        "mixup": 0.0,
        "half_face": 0.0,
        "sampling": "shuffle",
        "clip": 0.0,
        "freeze": 0,
        "drop": 0.0,
        "tta": [],
        "offsets": "no",
    },
    # A small model from scratch, for the sample set on a laptop: the whole job in minutes.
    "sample": {
        "model": "resnet10t",
        "pretrained": "no",
        "resize": [96, 72],
        "epochs": 12,
        "batch_size": 32,
        "augmentation": "mild",
        "drop": 0.1,
        "name": "sample",
    },
}

# Transformers, and what is trained as they are, need another optimizer and another scale of
# learning rate than the small CNNs on which the defaults were measured. These are the winning
# team's values for Swin-L-384, not measured here.
FOR_TRANSFORMERS = {
    "optimizer": "AdamW",
    "batch_size": 16,
    "crop": [320, 256],
    "freeze": 0,
    "drop": 0.0,
}


# What core.backbone.is_transformer says of the recipes' models, so that --help is quick.
KNOWN = {"SwinTransformerLarge384": True, "resnet10t": False}


def is_transformer(args) -> bool:
    """Whether `args.model` is trained as transformers are, by what it contains.

    UserError for a name that timm does not know.
    """
    if args.model in KNOWN:
        return KNOWN[args.model]
    try:
        from core import backbone
    except ModuleNotFoundError:  # the parser says which package is missing
        return False
    return backbone.is_transformer(args.model)


def learning_rates(args) -> dict:
    """Default peak learning rate and weight decay for the optimizer and the model in `args`.

    The rates were chosen for batches of the default size on one device. They grow with the photos
    in an update as timm's training script has it: in proportion for SGD (Goyal et al. 2017,
    https://arxiv.org/abs/1706.02677), with the square root for Adam and its kind, among them LAMB.
    LAMB's rate is the share of their size that a layer's weights move, so it is the same for every
    model; it was measured on CNNs alone.
    """
    usual = FOR_TRANSFORMERS["batch_size"] if is_transformer(args) else BATCH_SIZE
    photos = args.batch_size * args.accumulate * args.devices * args.nodes
    times = max(1, photos) / usual
    name = args.optimizer.lower()
    if "sgd" in name or name.startswith(("momentum", "nesterov")):
        lr, weight_decay = 0.04 * times, 5e-4
    elif "lamb" in name:  # clamb, lambw, ...
        lr, weight_decay = 5e-3 * times**0.5, 0.02
    else:
        lr, weight_decay = (2e-5, 0.01) if is_transformer(args) else (2e-3, 0.05)
        lr *= times**0.5
    return {"lr": float(f"{lr:.3g}"), "weight_decay": weight_decay}
