"""Every flag of train.py and its default, and the recipes: named sets of flags. Standard library only.

A flag on the command line beats --config FILE, which beats --recipe NAME, which beats the defaults here.
"""

import argparse
import json
import math
import os
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter
from core.errors import UserError
from core.files import read_json
from prediction.tta import VIEWS

RECIPES = {
    # What train.sh runs with users' own data: the defaults below, chosen by measurements (docs/accuracy.md).
    "default": {},
    # What the winning team ran, number by number. Deviations: people are split whole; the learning rate of their first epoch is not on
    # record (we begin their warm-up at a tenth of the peak); statistics are ImageNet's, since theirs were of photos without background.
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
    },
    # A small model from nothing, for the drawn sample on a laptop: shows the whole job in minutes.
    "sample": {
        "model": "resnet10t",
        "pretrained": "no",
        "resize": [96, 72],
        "epochs": 12,
        "batch_size": 32,
        "optimizer": "AdamW",
        "augmentation": "mild",
        "drop": 0.1,
        "name": "sample",
    },
}


# Transformers, and ConvNeXt which is trained as they are, want another optimizer and scale of learning rate than the small CNNs that the
# defaults were measured on. These are the winning team's values for Swin-L-384, not measured here; the rest (head, loss, augmentation) is
# as measured on CNNs.
TRANSFORMERS = (
    "swin",
    "vit",
    "deit",
    "beit",
    "eva",
    "cait",
    "davit",
    "maxvit",
    "hiera",
    "convnext",
)


FOR_TRANSFORMERS = {
    "optimizer": "AdamW",
    "batch_size": 16,
    "crop": [320, 256],
    "freeze": 0,
    "drop": 0.0,
}


def rates(args) -> dict:
    """Peak learning rate and weight decay of the model and optimizer, where none is given."""
    if "sgd" in args.optimizer.lower() or args.optimizer.lower().startswith(
        ("momentum", "nesterov")
    ):
        return {"lr": 0.04, "weight_decay": 5e-4}
    return (
        {"lr": 2e-5, "weight_decay": 0.01}
        if is_transformer(args)
        else {"lr": 2e-3, "weight_decay": 0.05}
    )


def is_transformer(args) -> bool:
    return args.model.lower().startswith(TRANSFORMERS)


def parser() -> argparse.ArgumentParser:
    p = ArgumentParser(
        prog="train.py",
        usage="train.py [--FLAG VALUE]...",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        description="Train one model on a folder of people; everything it leaves is in one run folder, MODEL_DIR/NAME.",
        epilog="examples:\n"
        "  SM_CHANNEL_TRAIN=/data/train python train.py --name swin\n"
        "  python train.py --data_dir /data/train --folds 5 --name swin5\n"
        "  python train.py --config model/swin/config.json --lr 1e-5 --name swin-slower\n"
        "  torchrun --standalone --nproc_per_node=8 train.py --devices 8 --name swin",
    )
    g = p.add_argument_group("what to run")
    g.add_argument(
        "--name",
        default="run",
        help="name of the run; an existing one is never overwritten: the next free NAME-2, NAME-3 is taken",
    )
    g.add_argument("--recipe", choices=RECIPES, default="default", help="a named set of flags")
    g.add_argument(
        "--config", metavar="FILE", help="start from the flags in a previous run's config.json"
    )
    g.add_argument(
        "--data_dir",
        metavar="DIR",
        help="train folder or its images folder (default: SM_CHANNEL_TRAIN)",
    )
    g.add_argument(
        "--model_dir",
        metavar="DIR",
        help="where run folders go (default: SM_MODEL_DIR, else ./model)",
    )
    g.add_argument(
        "--seed",
        type=int,
        default=42,
        help="of the split, the order, the augmentation and the start",
    )

    g = p.add_argument_group("data")
    g.add_argument(
        "--corrections",
        metavar="FILE",
        help="csv of person,field,value[,photo] applied to the labels at load",
    )
    g.add_argument(
        "--val_ratio",
        type=float,
        default=0.2,
        help="share of the people to validate on; 0 trains on everybody, without a score",
    )
    g.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="train K models, each validated on another K-th of the people",
    )
    g.add_argument("--fold", type=int, metavar="I", help="with --folds: only fold I (0 to K-1)")
    g.add_argument("--split", metavar="FILE", help="use the split.csv of another run")
    g.add_argument(
        "--bands",
        type=int,
        nargs=2,
        default=[30, 60],
        metavar=("LOW", "HIGH"),
        help="age bands of the training label, in years, upper-exclusive; scores always use 30 60",
    )
    g.add_argument(
        "--drop_ages",
        type=int,
        nargs=2,
        metavar=("FROM", "TO"),
        help="leave people of these ages (years, inclusive) out of training",
    )
    g.add_argument(
        "--thin",
        type=int,
        metavar="N",
        help="train on at most N of each person's photos with the mask worn properly",
    )
    g.add_argument(
        "--sampling",
        choices=("shuffle", "weighted", "balanced"),
        default="shuffle",
        help="photos of an epoch: each once, or drawn by 1/sqrt(class count), or by 1/class count",
    )
    g.add_argument(
        "--check_photos",
        choices=("yes", "no"),
        default="yes",
        help="open every photo before training starts",
    )

    g = p.add_argument_group("photos")
    g.add_argument(
        "--resize",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input, pixels (default: the backbone's own if it is fixed, else 256 192)",
    )
    g.add_argument(
        "--crop",
        type=int,
        nargs=2,
        default=[448, 336],
        metavar=("H", "W"),
        help="centre crop, pixels of a 512 x 384 photo; scaled to others",
    )
    g.add_argument(
        "--augmentation",
        default="default",
        help="none, winners, mild, default, or BaseAugmentation, CustomAugmentation",
    )
    g.add_argument(
        "--mean",
        type=float,
        nargs=3,
        metavar="M",
        help="of the RGB pixels, 0 to 1 (default: the backbone's own)",
    )
    g.add_argument(
        "--std",
        type=float,
        nargs=3,
        metavar="S",
        help="of the RGB pixels, 0 to 1 (default: the backbone's own)",
    )
    g.add_argument(
        "--statistics",
        choices=("backbone", "measured"),
        default="backbone",
        help="mean and std: the backbone's, or of the training photos",
    )
    g.add_argument(
        "--mixup",
        type=float,
        default=0.0,
        metavar="P",
        help="chance that a batch is blended in pairs (Beta(0.4, 0.4))",
    )
    g.add_argument(
        "--half_face",
        type=float,
        default=0.0,
        metavar="P",
        help="chance that a batch gets face halves of two people of one mask state",
    )
    g.add_argument(
        "--tta",
        nargs="*",
        choices=VIEWS,
        default=["flip"],
        help="views an answer is averaged over, in validation and later: mirror image, shifts, sizes; none: --tta alone",
    )

    g = p.add_argument_group("model")
    g.add_argument(
        "--model",
        default="SwinTransformerLarge384",
        help="any timm model, or SwinTransformerLarge384",
    )
    g.add_argument(
        "--pretrained",
        default="yes",
        metavar="yes|no|FILE",
        help="ImageNet weights by timm, none, or from a file",
    )
    g.add_argument(
        "--model_kwargs",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="passed to timm, such as drop_path_rate=0.1",
    )
    g.add_argument(
        "--head",
        choices=("joint", "factored", "years"),
        default="years",
        help="18 logits; mask + gender + age logits; or with a distribution over the years of age",
    )
    g.add_argument(
        "--years_weight", type=float, default=1.0, help="weight of the years head's own loss"
    )
    g.add_argument("--years_sigma", type=float, default=3.0, help="width of its target, years")
    g.add_argument(
        "--freeze",
        type=int,
        metavar="N",
        help="keep the first N of timm's coarse layer groups as they are (default: 2 of pretrained weights)",
    )
    g.add_argument("--drop", type=float, default=0.3, help="dropout before the head")

    g = p.add_argument_group("loss")
    g.add_argument(
        "--criterion",
        default="label_smoothing",
        help="cross_entropy, label_smoothing, focal, f1, f1_winners, cross_entropy_f1",
    )
    g.add_argument(
        "--smoothing", type=float, default=0.1, help="of label_smoothing and cross_entropy_f1"
    )
    g.add_argument("--gamma", type=float, default=2.0, help="of focal")
    g.add_argument("--f1_share", type=float, default=0.5, help="of cross_entropy_f1")
    g.add_argument(
        "--f1_memory",
        type=float,
        default=0.0,
        help="share of earlier batches' counts that f1 carries along, 0 to 1",
    )

    g = p.add_argument_group("optimisation")
    g.add_argument("--epochs", type=int, default=5)
    g.add_argument("--batch_size", type=int, default=32, help="photos in a step, on each device")
    g.add_argument(
        "--valid_batch_size",
        type=int,
        default=64,
        help="photos in a validation step, on each device",
    )
    g.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="steps to an update: the effective batch is batch_size x N x devices",
    )
    g.add_argument(
        "--optimizer",
        default="SGD",
        help="any of timm's, in any case: SGD (Nesterov momentum 0.9), AdamW, LAMB, ... (default: SGD; AdamW for transformers)",
    )
    g.add_argument(
        "--lr",
        type=float,
        help="peak learning rate (default: 0.04 of SGD; 0.002 of others, of transformers 2e-5)",
    )
    g.add_argument(
        "--weight_decay",
        type=float,
        help="(default: 0.0005 of SGD; 0.05 of others, of transformers 0.01)",
    )
    g.add_argument(
        "--layer_decay",
        type=float,
        default=1.0,
        help="learning rate of each layer relative to the next; 1 is the same for all",
    )
    g.add_argument(
        "--scheduler",
        choices=("cosine", "step", "winners"),
        default="cosine",
        help="cosine or step, both by update after a linear warm-up; winners: by epoch, as they ran it",
    )
    g.add_argument(
        "--lr_decay_step",
        type=int,
        default=4,
        metavar="EPOCHS",
        help="step: halve the learning rate every so many epochs",
    )
    g.add_argument("--warmup", type=float, default=1.0, metavar="EPOCHS", help="linear warm-up")
    g.add_argument(
        "--clip",
        type=float,
        default=1.0,
        metavar="NORM",
        help="largest norm of the gradient; 0 does not clip",
    )
    g.add_argument(
        "--ema",
        type=float,
        default=0.0,
        metavar="DECAY",
        help="average of the weights over updates, which is then what is validated and kept; 0 is off",
    )

    g.add_argument(
        "--offsets",
        choices=("auto", "yes", "no"),
        default="auto",
        help="with --folds: class offsets tuned for macro-F1 out of fold; auto: if they help on folds not tuned on",
    )

    g = p.add_argument_group("machine")
    g.add_argument(
        "--devices",
        type=int,
        default=os.environ.get("SM_NUM_GPUS", "").lstrip("0") or 1,
        help="GPUs on this machine, or processes (default: SM_NUM_GPUS, else 1)",
    )
    g.add_argument("--nodes", type=int, default=1, help="machines")
    g.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    g.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="auto: bf16 or fp16 as the GPU has it; measured on a CPU",
    )
    g.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "last", "first"),
        help="channels in memory; auto: last on a GPU, measured on a CPU",
    )
    g.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes that read photos (default: by the number of cores)",
    )
    g.add_argument(
        "--cache",
        default="auto",
        choices=("auto", "yes", "no"),
        help="keep decoded crops in memory; auto: if they take a quarter of it at most",
    )
    g.add_argument(
        "--resume",
        nargs="?",
        const="yes",
        default="no",
        choices=("yes", "auto", "no"),
        help="go on with the run NAME from its last checkpoint; auto: or start it, where there is none",
    )
    g.add_argument(
        "--keep",
        type=int,
        default=0,
        metavar="N",
        help="keep the checkpoints of the last N epochs beside last.ckpt",
    )
    g.add_argument(
        "--save_interval",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="between checkpoints within an epoch",
    )
    g.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "yes", "no"),
        help="torch.compile; auto: on a GPU, for runs of over 5,000 updates",
    )
    g.add_argument(
        "--checkpointing",
        default="auto",
        choices=("auto", "yes", "no"),
        help="activation checkpointing; auto: on a GPU too small without",
    )
    g.add_argument(
        "--log_interval",
        type=int,
        default=20,
        metavar="STEPS",
        help="steps between two looks at the loss",
    )
    g.add_argument(
        "--logger",
        choices=("tensorboard", "wandb", "csv"),
        default="tensorboard",
        help="beside metrics.csv, which is always written and all that csv means",
    )
    g.add_argument(
        "--report",
        choices=("yes", "no"),
        default="yes",
        help="at the end make the run's page, as report.py run does",
    )
    return p


def parse(arguments=None) -> argparse.Namespace:
    """The settings of one run; UserError for a config that cannot be used, argparse's own exit for a flag that cannot."""
    p = parser()
    first, _ = p.parse_known_args(arguments)
    defaults = dict(RECIPES[first.recipe])
    if first.config:
        stored = read_json(Path(first.config)).get("settings")
        if not isinstance(stored, dict):
            raise UserError(f"--config {first.config}: holds no settings of a run")
        unknown = sorted(set(stored) - set(vars(first)))
        if unknown:
            raise UserError(f"--config {first.config}: unknown setting {unknown[0]!r}")
        of_that_run = (
            "config",
            "recipe",
            "resume",
            "name",
            "data_dir",
            "model_dir",
            "devices",
            "nodes",
        )
        stored = {key: value for key, value in stored.items() if key not in of_that_run}
        for action in p._actions:
            if action.dest in stored and not _fits(action, stored[action.dest]):
                raise UserError(
                    f"--config {first.config}: --{action.dest} cannot be {str(stored[action.dest])[:60]}"
                )
        defaults.update(stored)
    p.set_defaults(**defaults)
    if is_transformer(p.parse_known_args(arguments)[0]):
        p.set_defaults(**FOR_TRANSFORMERS | defaults)
    args = p.parse_args(arguments)
    for key, value in rates(args).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    _check(args)
    return args


def _fits(action, value) -> bool:
    """Whether a value from a config is one that the flag could have had."""
    if value is None:
        return action.default is None
    if action.nargs == 0:
        return isinstance(value, bool)
    many = action.nargs is not None
    values = value if many and isinstance(value, list) else [value]
    kinds = {int: (int,), float: (int, float)}.get(action.type, (str,))
    return (
        isinstance(value, list) == many
        and action.nargs in (None, "*", len(values))
        and all(type(v) in kinds and (not action.choices or v in action.choices) for v in values)
    )


def parse_or_exit(arguments=None) -> argparse.Namespace:
    """`parse`, with a UserError shown as argparse shows its own: one line, exit status 2."""
    try:
        return parse(arguments)
    except UserError as error:
        parser().exit(2, f"train.py: {error}\n")


def _check(args) -> None:
    for key, value in vars(args).items():
        if any(
            isinstance(v, float) and not math.isfinite(v)
            for v in (value if isinstance(value, list) else [value])
        ):
            raise UserError(f"--{key}: give a finite number")
    positive = (
        "epochs",
        "batch_size",
        "valid_batch_size",
        "accumulate",
        "log_interval",
        "devices",
        "nodes",
        "lr_decay_step",
        "lr",
        "years_sigma",
        "save_interval",
    )
    for key in positive:
        if not getattr(args, key) > 0:
            raise UserError(f"--{key} {getattr(args, key)}: give a number above 0")
    for key in (
        "val_ratio",
        "smoothing",
        "f1_share",
        "f1_memory",
        "ema",
        "mixup",
        "half_face",
        "drop",
    ):
        if (
            not 0
            <= getattr(args, key)
            < (1 if key in ("val_ratio", "ema", "f1_memory", "drop", "smoothing") else 1.0001)
        ):
            raise UserError(f"--{key} {getattr(args, key)}: give a number from 0 to below 1")
    for key in ("warmup", "clip", "weight_decay", "freeze", "seed", "keep"):
        if (getattr(args, key) or 0) < 0:
            raise UserError(f"--{key} {getattr(args, key)}: give a number of 0 or above")
    if not 0 < args.layer_decay <= 1:
        raise UserError(f"--layer_decay {args.layer_decay}: give a number above 0, up to 1")
    if min((args.resize or []) + args.crop) < 1:
        raise UserError("--resize and --crop: give a height and a width in pixels")
    if not 0 < args.bands[0] < args.bands[1] < 100:
        raise UserError(f"--bands {args.bands[0]} {args.bands[1]}: give two ages, the lower first")
    if args.fold is not None and not (args.folds and 0 <= args.fold < args.folds):
        raise UserError(f"--fold {args.fold}: give --folds K too, and a fold from 0 to K-1")
    if args.std and min(args.std) <= 0:
        raise UserError("--std: give numbers above 0")
    if args.drop_ages and args.drop_ages[0] > args.drop_ages[1]:
        raise UserError(
            f"--drop_ages {args.drop_ages[0]} {args.drop_ages[1]}: give two ages, the lower first"
        )
    if args.thin is not None and args.thin < 1:
        raise UserError(f"--thin {args.thin}: give a number above 0")
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers}: give a number of 0 or above")


def keywords(pairs: list[str]) -> dict:
    """["key=value", ...] -> a dictionary; values are read as JSON where they can be, else as text."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--model_kwargs {pair!r}: write KEY=VALUE")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return result
