"""What a run decides before it trains, and the model it starts from.

The decisions are made here, applied here, stored in config.json under "choices", and taken from
there when the run is resumed.
"""

from dataclasses import asdict, astuple, dataclass, fields, replace

import numpy as np
import timm
import torch
from timm.utils import random_seed

import dataset
from core import device, metrics
from core.backbone import backbone_config, check_size
from core.errors import UserError
from core.extra_photos import certain
from core.fabric import Fabric, MixedPrecision, Precision, launch_ranks
from core.folders import is_drawn
from core.framing import framing_of
from core.labels import ATTRIBUTES, OFFICIAL_BANDS, decode, encode
from core.processes import cores, on_rank_zero
from core.progress import say
from loss import create_criterion
from model import MaskClassifier, load_pretrained
from training import settings
from training.data import Data, by_attribute
from training.optimizer import check_optimizer
from training.split import sampling_weights


@dataclass(frozen=True)
class Plan:
    """What was decided at start-up."""

    # the model's input and its frozen part
    resize: list[int]  # height, width
    mean: list[float]
    std: list[float]
    freeze: int  # coarse layer groups
    # the machine
    precision: str  # bf16, fp16 or fp32
    channels_last: bool
    reason: str  # for precision and layout, as shown to the user
    checkpointing: bool = False
    split: int = 1  # micro-batches that a batch is split into
    threads: int | None = None  # on a CPU
    compiled: bool = False
    # how the training photos show a face: the numbers of a Framing, None if unknown
    framing: list[float] | None = None
    first_epoch: int = (
        0  # where the learning-rate schedule begins: after 0 in a run that was extended
    )
    # an epoch, counted for one rank
    batch_size: int = 0  # photos in a micro-batch
    accumulate: int = 1  # micro-batches to an update
    updates: int = 0

    @property
    def steps(self) -> int:
        """Micro-batches in an epoch. The last ones that do not fill an update are dropped."""
        return self.updates * self.accumulate

    @property
    def common(self) -> dict:
        """The choices that hold for another fold or member as well."""
        names = "precision channels_last reason checkpointing split threads framing".split()
        return {name: getattr(self, name) for name in names}


def launch(args) -> Fabric:
    """The process's one Fabric, with all ranks started.

    UserError, before any work, for names that must be known.
    """
    create_criterion(args.criterion)
    check_optimizer(args.optimizer)
    kind = device.accelerator(args.accelerator)
    device.keep_memory(kind)
    return launch_ranks(kind, args.devices, args.nodes)


def start(
    args, train_frame, data: Data, fabric, recorded: dict, resumed: bool = False
) -> tuple[MaskClassifier, Plan]:
    """The model at its start and the Plan, already applied.

    `recorded` holds choices made before, by the run that is `resumed` or for another fold.
    """
    if args.statistics == "measured":
        data.check()
    choices = recorded if "mean" in recorded else input_choices(args, train_frame) | recorded
    torch.manual_seed(args.seed)
    if "framing" not in choices:
        framing = on_rank_zero(fabric, framing_of_photos, train_frame, data.extra)
        choices |= {"framing": framing}
    model = build_model(args, choices, is_drawn(data.source), resumed)
    data.check()  # before anything is timed
    if args.offsets != "no":
        set_frequency_offsets(model, train_frame, data.extra, args)
    if "precision" not in choices:
        choices |= _machine_choices(args, model, fabric)
    known = {field.name for field in fields(Plan)}
    plan = Plan(**{name: value for name, value in choices.items() if name in known})
    plan = _count_steps(plan, args, len(train_frame) + len(data.extra), fabric.world_size)
    if choices.get("compiled") is None:
        compiled = on_rank_zero(fabric, _compiles, args, plan, model, fabric.device.type)
        plan = replace(plan, compiled=compiled)
    model = apply(plan, model, fabric)
    if fabric.global_rank:  # the same weights on all ranks, but dropout of their own
        random_seed(args.seed, fabric.global_rank)
    return model, plan


def input_choices(args, train_frame) -> dict:
    """Input size, pixel statistics and frozen layer groups, where the flags leave them open."""
    config = backbone_config(args.model)
    resize = args.resize or (config["resize"] if config["fixed"] else [256, 192])
    mean, std = config["mean"], config["std"]
    if args.statistics == "measured" and not (args.mean and args.std):
        mean, std = dataset.pixel_statistics(train_frame["path"], resize, args.crop)
    freeze = args.freeze if args.freeze is not None else 2 * (args.pretrained != "no")
    return {
        "resize": list(resize),
        "mean": args.mean or mean,
        "std": args.std or std,
        "freeze": freeze,
    }


def framing_of_photos(train_frame, extra) -> list[float] | None:
    """How faces stand in the photos to train on, as the numbers of a Framing; None if unknown.

    Says so, and warns of `extra` photos that differ.
    """
    framing = framing_of(train_frame["path"].tolist())
    if framing is None:
        return None
    say(f"framing: the photos are {framing}")
    other = framing_of(extra["path"].tolist())
    if other and not other.is_like(framing):
        say(f"warning: the photos of --extra are {other}; frame them alike with prepare.py crop")
    return list(astuple(framing))


def build_model(args, choices: dict, drawn=False, resumed=False) -> MaskClassifier:
    """Backbone and head with their first weights, and all that inference will need to know.

    Where a run is `resumed`, pretrained weights are not fetched again.
    """
    model = MaskClassifier(
        args.model,
        args.head,
        choices["resize"],
        choices["mean"],
        choices["std"],
        settings.keywords(args.model_kwargs),
        crop=args.crop,
        bands=args.bands,
        drop=args.drop,
        tta=args.tta,
        drawn=drawn,
        macro_f1=None,
        **({"framing": choices["framing"]} if choices.get("framing") else {}),
        **({"attribute": args.attribute} if args.attribute else {}),
    )
    check_size(model.backbone, args.model, choices["resize"], settings.keywords(args.model_kwargs))
    if args.attribute:
        model.head.learn_only(args.attribute)
    weights = "those of its last checkpoint"
    if not resumed:
        weights = load_pretrained(model, args.pretrained, args.pretrained_partial == "yes")
    freeze(model.backbone, choices["freeze"], args)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    height, width = choices["resize"]
    say(
        f"model: {args.model}, {args.head} head, {parameters:.1f} M parameters, "
        f"input {height} x {width}, weights: {weights}"
    )
    return model


def freeze(backbone, count: int, args) -> None:
    """Freeze the first `count` layer groups. UserError for a --freeze that timm cannot do."""
    if not count:
        return
    if not hasattr(backbone, "group_matcher"):
        if args.freeze:
            raise UserError(
                f"--freeze {count}: timm knows no layer groups of {args.model}; use --freeze 0"
            )
        say(f"nothing is frozen: timm knows no layer groups of {args.model}")
        return
    groups = timm.models.group_parameters(backbone, backbone.group_matcher(coarse=True))
    for group in sorted(groups)[:count]:
        for name in groups[group]:
            backbone.get_parameter(name).requires_grad_(False)


def set_frequency_offsets(model: MaskClassifier, train_frame, extra, args) -> None:
    """Set the model's offsets from the frequencies of the labels that it learns; says which."""
    # The years head predicts the official bands, whatever the training bands.
    bands = OFFICIAL_BANDS if args.head == "years" else args.bands
    learned = encode(train_frame["mask"], train_frame["gender"], train_frame["age"], bands)
    weights = sampling_weights(train_frame["label"].to_numpy(), args.sampling)
    pairs = zip(decode(learned.to_numpy()), certain(extra, bands), strict=True)
    offsets = metrics.frequency_offsets([np.concatenate(pair) for pair in pairs], weights)
    if args.attribute:  # a sum over the attributes, each with a mean of 0
        cube = offsets.reshape(3, 2, 3)
        others = tuple(axis for axis, name in enumerate(ATTRIBUTES) if name != args.attribute)
        offsets = (cube.mean(axis=others, keepdims=True) + 0 * cube).ravel()
    model.offsets.copy_(torch.from_numpy(offsets))
    values = by_attribute(offsets, np.mean, "+.2f")
    say(f"offsets for macro-F1, from the class frequencies: {values}")


def _machine_choices(args, model, fabric) -> dict:
    kind = fabric.device.type
    if kind == "cpu" and "auto" in (args.precision, args.layout):
        say("measuring which precision and memory layout are fastest here")
    devices, threads = [fabric.device] if kind == "cuda" else [], torch.get_num_threads()
    with torch.random.fork_rng(devices):  # measuring must not change what is trained

        def choose():
            resize = model.description["resize"]
            ranks = fabric.world_size
            return vars(device.choose(model, kind, args, True, resize, ranks))

        choices = on_rank_zero(fabric, choose)
    if choices["threads"] and choices["threads"] < min(cores(), threads):
        say("others use some of the cores; OMP_NUM_THREADS sets another number of threads")
    return choices


def _count_steps(plan: Plan, args, photos: int, ranks: int) -> Plan:
    batch_size = args.batch_size // plan.split
    batches = max(1, -(-photos // ranks) // batch_size)
    accumulate = min(args.accumulate * plan.split, batches)
    if accumulate < args.accumulate * plan.split:
        say(f"--accumulate: an epoch has {batches} batches only, which make one update")
    updates = batches // accumulate
    return replace(plan, batch_size=batch_size, accumulate=accumulate, updates=updates)


def _compiles(args, plan: Plan, model, kind: str) -> bool:
    """Whether to compile the model, see `device.compiles`.

    On an H200 compiling Swin-Large (197 M parameters) took about 70 s and then saved 1.6 ms a photo
    (docs/speed.md): worth it from 44,000 photos on. A smaller model saves less.
    """
    photos = args.epochs * plan.steps * plan.batch_size
    parameters = sum(p.numel() for p in model.parameters())
    return device.compiles(args.compile, kind, photos * parameters, worth=10**13)


def apply(plan: Plan, model: MaskClassifier, fabric) -> MaskClassifier:
    """Set up this process, `fabric` and `model` as planned."""
    kind = fabric.device.type
    if plan.threads:  # another number would add up in another order, to other bits
        torch.set_num_threads(min(plan.threads, cores()))
    if kind == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in fp32
        torch.backends.cudnn.benchmark = True  # inputs are of one size
    fabric.strategy.precision = (
        Precision()
        if plan.precision == "fp32"
        else MixedPrecision(device.FABRIC_PRECISION[plan.precision], kind)
    )
    if plan.checkpointing:
        model.backbone.set_grad_checkpointing(True)
    device.fuse_attention(model, kind, training=True)
    return model.to(memory_format=torch.channels_last) if plan.channels_last else model


def describe(plan: Plan, fabric, workers: int) -> str:
    """The machine's part of the plan in one line."""
    known = {field.name for field in fields(device.Choice)}
    choice = device.Choice(**{k: v for k, v in asdict(plan).items() if k in known})
    compiled = ", compiled" if plan.compiled else ""
    return (
        f"device: {fabric.device.type} x {fabric.world_size}, {choice}{compiled}, {workers} workers"
    )
