"""The flags of train.py: the table, parsing, validation. No imports that --help would wait for.

A flag on the command line beats --config FILE, which beats --recipe NAME, which beats the table.
"""

import argparse
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter
from core.errors import UserError, first_line
from core.files import read_json, read_text
from prediction.tta import VIEWS
from training.recipes import BATCH_SIZE, FOR_TRANSFORMERS, RECIPES, is_transformer, learning_rates

EXAMPLES = """\
examples:
  SM_CHANNEL_TRAIN=/data/train python train.py --name swin
  python train.py --data_dir /data/train --folds 5 --name swin5
  python train.py --config model/swin/config.json --lr 1e-5 --name swin-slower
  torchrun --standalone --nproc_per_node=8 train.py --devices 8 --name swin
  python train.py --model resnet18 --help      the defaults for that model
"""


class AddPair(argparse._AppendAction):
    """Every use of the flag adds a pair; the first one replaces the default."""

    def __call__(self, parser, namespace, values, _=None):
        pairs = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if pairs is self.default else pairs), values])


# group -> rows of (flag, default, help, more arguments of add_argument). The type of a value is
# that of its default, unless "type" gives it. Photos are 512 x 384 (height x width) pixels.
# fmt: off
YES_NO, AUTO_YES_NO = {"choices": ("yes", "no")}, {"choices": ("auto", "yes", "no")}
PAIR, TRIPLE = {"type": int, "nargs": 2}, {"type": float, "nargs": 3}
FLAGS = {
    "run": [
        ("name", "run", "name of the run; never overwrites: if NAME exists, NAME-2 is made", {}),
        ("recipe", "default", "named set of flags to start from", {"choices": RECIPES}),
        ("config", None, "start from the flags in another run's config.json, or in a YAML file of "
            "flags", {"metavar": "FILE"}),
        ("data_dir", None, "train folder, or its images folder (default: SM_CHANNEL_TRAIN)",
            {"metavar": "DIR"}),
        ("model_dir", None, "folder for the run folders (default: SM_MODEL_DIR, else ./model)",
            {"metavar": "DIR"}),
        ("seed", 42, "seed for the split, data order, augmentation and weight initialisation", {}),
        ("resume", "no", "continue run NAME from its last checkpoint; auto: start it if there "
            "is none", {"nargs": "?", "const": "yes", "choices": ("yes", "auto", "no")}),
        ("logger", "tensorboard", "log to TensorBoard or Weights & Biases as well as metrics.csv; "
            "csv: metrics.csv only", {"choices": ("tensorboard", "wandb", "csv")}),
        ("report", "yes", "write the run's HTML report at the end", YES_NO),
    ],
    "data": [
        ("corrections", None, "CSV of label corrections to apply: person,field,value[,photo]",
            {"metavar": "FILE"}),
        ("extra", None, "CSV of more photos to train on, with labels left empty where unknown: "
            "path,mask,gender,age; an age may be 20-29 or 60+", {"metavar": "FILE"}),
        ("val_ratio", 0.2, "share of the people to validate on; 0: train on all, unscored", {}),
        ("folds", None, "train K models, each validated on a different K-th of the people",
            {"type": int, "metavar": "K"}),
        ("fold", None, "with --folds: train only fold I (0 to K-1)", {"type": int, "metavar": "I"}),
        ("members", None, "train N models on the same people, with seeds SEED, SEED + 1, ...; "
            "inference averages them", {"type": int, "metavar": "N"}),
        ("split", None, "reuse the split.csv of another run", {"metavar": "FILE"}),
        ("bands", [30, 60], "age-band borders of the training labels, in years (upper-exclusive); "
            "scores always use 30 and 60", PAIR | {"metavar": ("LOW", "HIGH")}),
        ("recursive", "no", "find people and photos in subfolders too",
            {"nargs": "?", "const": "yes", "choices": ("yes", "no")}),
        ("check_photos", "yes", "open every photo before training starts", YES_NO),
        ("on_error", "fail", "photos that cannot be read: stop before training (fail), or leave "
            "them out with a warning (skip)", {"choices": ("fail", "skip")}),
    ],
    "photos": [
        ("resize", None, "input size in pixels (default: the backbone's if fixed, else 256 192)",
            PAIR | {"metavar": ("H", "W")}),
        ("crop", [448, 336], "centre crop in pixels of a 512 x 384 photo; scaled for other sizes",
            PAIR | {"metavar": ("H", "W")}),
        ("augmentation", "default", "none, winners, mild, default, clahe, autoaugment, "
            "randaugment, augmix, a policy of timm such as rand-m5-n3, or a file that "
            "albumentations.save wrote (.yaml, .json)", {"metavar": "NAME|FILE"}),
        ("tta", ["flip"], "test-time augmentations, in validation and inference: mirror image, "
            "shifts, scales; --tta alone for none", {"nargs": "*", "choices": VIEWS}),
    ],
    "model": [
        ("model", "SwinTransformerLarge384", "any timm model, or SwinTransformerLarge384", {}),
        ("pretrained", "yes", "pretrained weights: timm's own (yes), none (no), a file or folder "
            "of weights, or hf-hub:USER/NAME", {"metavar": "yes|no|FILE"}),
        ("pretrained_partial", "no", "accept pretrained weights that leave more than the "
            "classifier random", {"choices": ("yes", "no")}),
        ("head", "years", "joint: 18 logits; factored: mask + gender + age logits; years: "
            "factored, with age as a distribution over years",
            {"choices": ("joint", "factored", "years")}),
        ("attribute", None, "train on the mask, the gender or the age alone, for ensemble.py "
            "combine to join with others", {"choices": ("mask", "gender", "age")}),
        ("freeze", None, "freeze the first N of timm's coarse layer groups "
            "(default: 2 with pretrained weights, else 0)", {"type": int, "metavar": "N"}),
        ("drop", 0.3, "dropout probability before the head", {}),
    ],
    "optimisation": [
        ("criterion", "label_smoothing", "loss by name: cross_entropy, label_smoothing, focal, f1, "
            "f1_winners or cross_entropy_f1", {}),
        ("epochs", 5, "number of epochs; with --resume, more epochs extend a finished run", {}),
        ("patience", 0, "stop when macro-F1 has not improved for N epochs; 0: never", {}),
        ("batch_size", BATCH_SIZE, "photos per step on each device", {}),
        ("valid_batch_size", 64, "photos per validation step on each device", {}),
        ("accumulate", 1, "steps per update; the effective batch is batch_size x N x devices", {}),
        ("optimizer", "LAMB", "any timm optimizer; SGD uses Nesterov momentum 0.9", {}),
        ("lr", None, "peak learning rate; depends on optimizer, model and the photos in an update",
            {"type": float}),
        ("weight_decay", None, "weight decay; depends on optimizer and model", {"type": float}),
        ("scheduler", "cosine", "learning-rate schedule after a linear warm-up: cosine or step, "
            "per update; plateau: halved when macro-F1 stops improving; winners: per epoch, as the "
            "winning team ran it", {"choices": ("cosine", "step", "plateau", "winners")}),
        ("warmup", 1.0, "length of the linear warm-up in epochs", {"metavar": "EPOCHS"}),
        ("clip", 1.0, "clip the gradient to this norm; 0: no clipping", {"metavar": "NORM"}),
        ("offsets", "auto", "class offsets for macro-F1, kept in the model file; frequency: from "
            "the class frequencies; tuned: with --folds, also tuned on the out-of-fold "
            "predictions (yes is the same); auto: tuned if that helps on unseen folds, else "
            "frequency",
            {"choices": ("auto", "frequency", "tuned", "yes", "no")}),
    ],
    "machine": [
        ("devices", None, "GPUs, or processes, on this machine (default: SM_NUM_GPUS, else 1)",
            {"type": int}),
        ("nodes", 1, "number of machines", {}),
        ("accelerator", "auto", "hardware to train on",
            {"choices": ("auto", "cpu", "gpu", "cuda", "mps")}),
        ("precision", "auto", "floating-point precision; auto: bf16 or fp16 on a GPU, the faster "
            "one on a CPU", {"choices": ("auto", "bf16", "fp16", "fp32")}),
        ("workers", None, "loader workers, processes that read photos (default: by CPU cores)",
            {"type": int}),
        ("cache", "auto", "keep decoded photos in memory; auto: if they fit in a quarter of it",
            AUTO_YES_NO),
        ("compile", "auto", "use torch.compile; auto: on a GPU, for a large model and a long run, "
            "from 50,000 photos on for Swin-Large", AUTO_YES_NO),
        ("checkpointing", "auto", "activation checkpointing, less memory for more time; auto: if "
            "the GPU is too small without it", AUTO_YES_NO),
        ("keep", 0, "also keep the checkpoints of the last N epochs", {}),
        ("save_interval", 10.0, "minutes between checkpoints within an epoch",
            {"metavar": "MINUTES"}),
        ("log_interval", 20, "steps between updates of the progress line", {"metavar": "STEPS"}),
    ],
    "experimental (seldom used; see docs/experiments.md before relying on one)": [
        ("drop_ages", None, "exclude people of these ages (years, inclusive) from training; can be "
            "given several times", PAIR | {"metavar": ("FROM", "TO"), "action": AddPair}),
        ("thin", None, "use at most N photos per person with the mask worn correctly",
            {"type": int, "metavar": "N"}),
        ("sampling", "shuffle", "photos of an epoch: each once (shuffle), or drawn with weight "
            "1/sqrt(class count) (weighted) or 1/class count (balanced)",
            {"choices": ("shuffle", "weighted", "balanced")}),
        ("mean", None, "mean of the RGB pixels, 0 to 1 (default: the backbone's)",
            TRIPLE | {"metavar": ("R", "G", "B")}),
        ("std", None, "standard deviation of the RGB pixels, 0 to 1 (default: the backbone's)",
            TRIPLE | {"metavar": ("R", "G", "B")}),
        ("statistics", "backbone", "mean and std to use: the backbone's, or those of the training "
            "photos", {"choices": ("backbone", "measured")}),
        ("mixup", 0.0, "probability of MixUp for a batch (Beta(0.4, 0.4))", {"metavar": "P"}),
        ("cutmix", 0.0, "probability of CutMix for a batch (Beta(1, 1))", {"metavar": "P"}),
        ("half_face", 0.0, "probability that a batch joins face halves of two people with the same "
            "mask state", {"metavar": "P"}),
        ("model_kwargs", [], "extra arguments for timm.create_model, such as drop_path_rate=0.1",
            {"nargs": "*", "type": str, "metavar": "KEY=VALUE"}),
        ("years_weight", 1.0, "weight of the years head's loss", {}),
        ("years_sigma", 3.0, "standard deviation of the years head's target, in years", {}),
        ("smoothing", 0.1, "label smoothing of label_smoothing and cross_entropy_f1", {}),
        ("gamma", 2.0, "exponent of the focal loss", {}),
        ("f1_share", 0.5, "weight of soft F1 in cross_entropy_f1, 0 to 1", {}),
        ("f1_memory", 0.0, "decay of earlier batches' counts in f1, 0 to 1; 0: no memory", {}),
        ("layer_decay", 1.0, "learning rate of a layer relative to the next; 1: equal rates", {}),
        ("lr_decay_step", 4, "with --scheduler step or winners: epochs until the rate is halved; "
            "with plateau: epochs without improvement", {"metavar": "EPOCHS"}),
        ("ema", 0.0, "decay of an exponential moving average of the weights, which is then "
            "validated and saved; 0: off", {"metavar": "DECAY"}),
        ("layout", "auto", "memory format, channels last or first; auto: last on a GPU, the faster "
            "one on a CPU", {"choices": ("auto", "last", "first")}),
    ],
}
# fmt: on


def parser(add_help: bool = True) -> argparse.ArgumentParser:
    result = ArgumentParser(
        prog="train.py",
        packages=("numpy", "pandas", "torch", "timm", "lightning_fabric"),
        usage="train.py [--FLAG VALUE]...",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        add_help=add_help,
        description="Train one model on a folder of people's photos. Everything it writes is in "
        "one run folder, MODEL_DIR/NAME.",
        epilog=EXAMPLES,
    )
    for title, rows in FLAGS.items():
        group = result.add_argument_group(title)
        for name, default, text, more in rows:
            options = dict(more)
            if "choices" not in options and "type" not in options:
                options["type"] = str if default is None else type(default)
            if options.get("type") in (int, float):
                options.setdefault("metavar", "N" if options["type"] is int else "X")
            group.add_argument(f"--{name}", default=default, help=text, **options)
    result.set_defaults(devices=os.environ.get("SM_NUM_GPUS", "").lstrip("0") or 1)
    return result


def parse(arguments=None) -> argparse.Namespace:
    """The settings of one run.

    UserError for a value or a config that cannot be used; argparse's own exit for an unknown flag.
    """
    result = parser()
    first, _ = parser(add_help=False).parse_known_args(arguments)
    chosen = dict(RECIPES[first.recipe])
    if first.config:
        chosen |= _stored(first.config, result)
    # The defaults depend on the model and the optimizer: find those first, so that --help shows
    # what would be used.
    probe = parser(add_help=False)
    probe.set_defaults(**chosen)
    model = probe.parse_known_args(arguments)[0]
    if is_transformer(model):
        chosen = FOR_TRANSFORMERS | chosen
    probe.set_defaults(**chosen)
    rates = learning_rates(probe.parse_known_args(arguments)[0])
    result.set_defaults(**rates | {key: v for key, v in chosen.items() if v is not None})
    args = result.parse_args(arguments)
    check(args)
    return args


def parse_or_exit(arguments=None) -> argparse.Namespace:
    """`parse`, with a UserError shown as argparse shows its own: one line, exit status 2."""
    try:
        return parse(arguments)
    except UserError as error:
        parser().exit(2, f"train.py: {error}\n")


OF_ANOTHER_RUN = ("config", "recipe", "resume", "name", "data_dir", "model_dir", "devices", "nodes")


def _stored(config: str, flags: argparse.ArgumentParser) -> dict:
    """The settings in a config.json or YAML file; UserError if a run cannot use them."""
    stored = _read_yaml(config) if Path(config).suffix in (".yaml", ".yml") else None
    stored = read_json(Path(config)).get("settings") if stored is None else stored
    if not isinstance(stored, dict):
        raise UserError(f"--config {config}: holds no settings of a run")
    actions, usable = {action.dest: action for action in flags._actions}, {}
    for key, value in stored.items():
        if key not in actions:
            raise UserError(f"--config {config}: unknown setting {key!r}")
        if key in OF_ANOTHER_RUN:
            continue
        usable[key] = _converted(actions[key], value)
        if not _fits(actions[key], usable[key]):
            raise UserError(f"--config {config}: --{key} cannot be {str(value)[:60]}")
    return usable


def _read_yaml(config: str) -> dict:
    import yaml  # comes with timm

    try:
        content = yaml.safe_load(read_text(Path(config)))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"--config {config}: cannot be read as YAML ({first_line(error)})"
        ) from None
    content = content or {}
    return content.get("settings", content) if isinstance(content, dict) else content


def _converted(action, value):
    """`value` as the flag would give it: YAML reads yes and no as true and false, 1e-5 as text."""
    if isinstance(value, bool) and action.type is not bool:
        return "yes" if value else "no"
    if action.type is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(action, AddPair) and isinstance(value, list) and value and type(value[0]) is int:
        return [value]  # of a run before version 1.1
    return value


def _fits(action, value) -> bool:
    """Whether a value from a config is one that the flag could have had."""
    if value is None:
        return action.default is None
    if isinstance(action, AddPair):
        pairs = value if isinstance(value, list) else [None]
        return all(isinstance(v, list) and [type(n) for n in v] == [int, int] for v in pairs)
    many = action.nargs not in (None, "?")
    values = value if many and isinstance(value, list) else [value]
    kinds = {int: (int,), float: (int, float)}.get(action.type, (str,))
    return (
        isinstance(value, list) == many
        and action.nargs in (None, "?", "*", len(values))
        and all(type(v) in kinds and (not action.choices or v in action.choices) for v in values)
    )


ABOVE_ZERO = (
    *("epochs", "batch_size", "valid_batch_size", "accumulate", "log_interval", "devices", "nodes"),
    *("lr_decay_step", "lr", "years_sigma", "save_interval", "thin", "members"),
)
FROM_ZERO = ("patience", "warmup", "clip", "weight_decay", "freeze", "seed", "keep", "workers")
BELOW_ONE = ("val_ratio", "ema", "f1_memory", "drop", "smoothing")
UP_TO_ONE = ("f1_share", "mixup", "cutmix", "half_face")


def check(args) -> None:
    """UserError for a value outside its flag's range."""
    from training.augmentation import check_name

    for key, value in vars(args).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{key}: give a finite number")
    ranges = [
        (ABOVE_ZERO, lambda value: value > 0, "a number above 0"),
        (FROM_ZERO, lambda value: value >= 0, "a number of 0 or above"),
        (BELOW_ONE, lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        (UP_TO_ONE, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        (["layer_decay"], lambda value: 0 < value <= 1, "a number above 0, up to 1"),
    ]
    for keys, fits, what in ranges:
        for key in keys:
            value = getattr(args, key)
            if value is not None and not fits(value):
                raise UserError(f"--{key} {value}: give {what}")
    for key, least in (("resize", 8), ("crop", 1)):
        if min(getattr(args, key) or [least]) < least:
            raise UserError(f"--{key}: give a height and a width of at least {least} pixels")
    if args.mixup + args.cutmix + args.half_face > 1:
        raise UserError(
            "--mixup, --cutmix and --half_face: give probabilities that sum to 1 at most"
        )
    check_name(args.augmentation)
    if args.logger == "wandb" and find_spec("wandb") is None:
        raise UserError(
            "--logger wandb: is not installed; 'pip install wandb', or use --logger tensorboard"
        )
    low, high = args.bands
    if not 0 < low < high < 100:
        raise UserError(f"--bands {low} {high}: give two ages, the lower first")
    for first, last in args.drop_ages or []:
        if first > last:
            raise UserError(f"--drop_ages {first} {last}: give two ages, the lower first")
    if (args.patience or args.scheduler == "plateau") and not (args.val_ratio or args.folds):
        flag = "--patience" if args.patience else "--scheduler plateau"
        raise UserError(f"{flag}: needs people to validate on; give --val_ratio or --folds")
    if args.fold is not None and not (args.folds and 0 <= args.fold < args.folds):
        raise UserError(f"--fold {args.fold}: give --folds K too, and a fold from 0 to K-1")
    if args.members and args.folds:
        raise UserError(f"--members {args.members}: goes without --folds; give one of them")
    if args.extra and args.sampling != "shuffle":
        raise UserError(f"--extra: goes with --sampling shuffle, not with {args.sampling}")
    if args.attribute and args.head == "joint":
        raise UserError(f"--attribute {args.attribute}: needs --head years or factored")
    if args.mean and not 0 <= min(args.mean) <= max(args.mean) <= 1:
        raise UserError("--mean: give numbers from 0 to 1; divide those of pixels up to 255 by 255")
    if args.std and not 0 < min(args.std) <= max(args.std) <= 1:
        raise UserError("--std: give numbers above 0, up to 1; divide those of pixels by 255")
    if args.seed + (args.members or 1) > 2**32:
        raise UserError(f"--seed {args.seed}: give a number below 2^32, seeds of --members too")


def keywords(pairs: list[str]) -> dict:
    """["key=value", ...] -> a dictionary; values are JSON where they parse, else text."""
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
