"""How a model runs on this machine: accelerator, precision, memory layout, compilation."""

import ctypes
import os
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from core.errors import UserError
from core.memory import fit
from core.processes import threads_for

SLOW = 1.0  # seconds, from which on precision and layout are timed on forward passes only
FABRIC_PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}


@dataclass
class Choice:
    """How a model runs on this machine."""

    precision: str  # bf16, fp16 or fp32
    channels_last: bool
    reason: str  # for the two, as shown to the user
    checkpointing: bool = False  # of activations
    split: int = 1  # micro-batches that a batch is split into
    threads: int | None = None  # on a CPU
    compiled: bool | None = None  # None: not decided yet

    def __str__(self):
        layout = "last" if self.channels_last else "first"
        text = f"{self.precision}, channels {layout} ({self.reason})"
        text += f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        text += ", activation checkpointing" if self.checkpointing else ""
        return text + (f", each batch as {self.split} micro-batches" if self.split > 1 else "")


def accelerator(name: str = "auto") -> str:
    """Resolve "auto" to "cuda", "mps" or "cpu"; UserError for a device that is not there."""
    kinds = {"cuda": torch.cuda, "mps": torch.backends.mps}
    found = [kind for kind, backend in kinds.items() if backend.is_available()]
    if name == "cpu" or (name == "auto" and not found):
        return "cpu"
    if name in ("auto", "gpu") and found:
        return found[0]
    if name in found:
        return name
    there = f"PyTorch finds no {'GPU' if name in ('gpu', 'cuda') else name} here"
    raise UserError(f"--accelerator {name}: {there}; use auto or cpu")


def choose(model, device: str, args, training: bool, resize=None, ranks: int = 1) -> Choice:
    """Precision and layout for `model` on `device`; for training also what makes it fit in memory.

    Training uses bf16 on a GPU of compute capability 8.0 or higher, fp16 on an older one, and on a
    CPU the faster of fp32 and bf16. Inference should predict as fp32 does: it uses fp16 on a GPU,
    which has three more bits of precision than bf16, and fp32 on a CPU. On a CPU the candidates are
    timed on a few photos, and training leaves the cores to other processes that these use: for the
    same bits in every run, give --precision, --layout and OMP_NUM_THREADS. Raises UserError for a
    batch that cannot fit.
    """
    resize = resize or args.resize
    if args.precision == "fp16" and device == "cpu":
        raise UserError("--precision fp16: needs a GPU; use bf16, fp32 or auto on a CPU")
    if device == "cuda":
        bf16 = training and torch.cuda.get_device_capability() >= (8, 0)
        choice = Choice(
            "bf16" if bf16 else inference_precision(device), True, torch.cuda.get_device_name()
        )
    elif device == "mps":
        choice = Choice("fp32", False, "Apple's GPU")
    else:
        precisions = (
            [args.precision]
            if args.precision != "auto"
            else ["fp32", "bf16"]
            if training
            else [inference_precision(device)]
        )
        layouts = _layouts(model, training) if args.layout == "auto" else [args.layout == "last"]
        threads = threads_for(training)
        torch.set_num_threads(threads)
        choice = fastest(model, precisions, layouts, resize, args.batch_size, training)
        choice.threads = threads
    if args.precision != "auto":
        choice.precision = args.precision
    if args.layout != "auto":
        choice.channels_last = args.layout == "last"
    if training:
        fuse_attention(model, device, training)
        fit(model, choice, args, device, resize, ranks)
    return choice


def _layouts(model, training: bool) -> list[bool]:
    """The memory layouts worth timing on a CPU; True is channels last."""
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    if training and any(map(_breaks_memory, convolutions)):
        return [False]
    # Beside matrix products the layout of the one convolution that cuts patches is nothing.
    return [True, False] if len(convolutions) > 1 else [True]


def _breaks_memory(conv: torch.nn.Conv2d) -> bool:
    """Whether its gradient in channels last may end the process ("corrupted double-linked list").

    As in the first layers of RepVGG and MobileOne, with oneDNN 3.11 (PyTorch 2.12) and AVX-512.
    """
    return conv.kernel_size == (1, 1) and max(conv.stride) > 1 and conv.in_channels <= 4


def inference_precision(device: str) -> str:
    """The precision of validation and inference: see `choose`."""
    return "fp16" if device == "cuda" else "fp32"


def fastest(model, precisions, layouts, resize, batch_size, training) -> Choice:
    """The fastest of `precisions` x `layouts` (True is channels last) for `model` on this CPU.

    They are timed in turn on up to 8 photos, three times; where a forward pass of one photo takes
    all of them together more than SLOW seconds, on one more of these. bf16 has to be 15 % faster
    than fp32 to be taken, so that timing noise does not change the choice.
    """
    candidates = [(precision, layout) for precision in precisions for layout in layouts]
    if len(candidates) == 1:
        return Choice(*candidates[0], "the only candidate")

    def time_all(photos, backward):
        return {way: _seconds(model, *way, resize, photos, backward) for way in candidates}

    slow = sum(time_all(1, False).values()) > SLOW  # the first passes warm up
    times = (1, False) if slow else (min(batch_size, 8), training)
    rounds = [time_all(*times) for _ in range(1 if slow else 3)]
    seconds = {way: min(times[way] for times in rounds) for way in candidates}
    best = min(candidates, key=lambda way: seconds[way] * (1.15 if way[0] == "bf16" else 1))
    gain = max(seconds.values()) / seconds[best]
    return Choice(*best, f"{gain:.1f} times as fast as the slowest of {len(candidates)} candidates")


def _seconds(model, precision, channels_last, resize, batch_size, training) -> float:
    """Seconds that one step of `model` takes; its weights and statistics do not change."""
    images = torch.full((batch_size, 3, *resize), 128, dtype=torch.uint8)
    images = images.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    model.eval()  # batch statistics must not learn from these
    start = time.perf_counter()
    with (
        torch.set_grad_enabled(training),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        scores = model(images)
    if training:
        scores.sum().backward()
        model.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def fuse_attention(model, device: str, training: bool) -> None:
    """Use PyTorch's fused attention, which timm leaves off in Swin; the same up to rounding.

    On a CPU it makes inference faster and training slower (docs/speed.md): training on a CPU keeps
    timm's choice. On an H200 Swin-L-384 trains 1.09 times as fast with it.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn") and not (training and device == "cpu"):
            module.fused_attn = True


def compiles(wish: str, device: str, work: float, worth: float) -> bool:
    """Whether to compile the model: yes, no, or auto.

    auto compiles on a GPU where more `work` than `worth` earns the minute it takes, and where
    there are a C compiler and the headers of Python, which torch.compile needs. Raises UserError
    for yes without them.
    """
    wished = wish == "yes" or (wish == "auto" and device == "cuda" and work > worth)
    names = ("g++", "clang++") if device == "cpu" else ("gcc", "clang", "cc")
    named = os.environ.get("CXX" if device == "cpu" else "CC")
    header = Path(sysconfig.get_path("include"), "Python.h")
    lacking = []
    if not any(map(shutil.which, (named,) if named else names)):
        lacking = [f"a C compiler ({named or names[0]})", "build-essential"]
    elif not header.exists():
        lacking = [str(header), "python3-dev"]
    if wish == "yes" and lacking:
        raise UserError(
            f"--compile yes: torch.compile needs {lacking[0]}, found none; install it (Debian: apt "
            f"install {lacking[1]}) or use --compile no"
        )
    return wished and not lacking


def keep_memory(device: str) -> None:
    """On a CPU with glibc: keep freed memory in this process, to be used again.

    Otherwise every large tensor is mapped anew and the kernel zeroes its pages, which takes as long
    as a small CNN computes (docs/speed.md). All threads share one heap, since only that one can
    grow without limit. See mallopt(3).
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None)
        if device == "cpu" and os.name == "posix"
        else None
    )
    if mallopt:
        for parameter, value in (
            (-4, 0),
            (-1, -1),
            (-8, 1),
        ):  # M_MMAP_MAX: never; M_TRIM_THRESHOLD: never; M_ARENA_MAX: one
            mallopt(parameter, value)
