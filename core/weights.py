"""Pretrained weights from timm, the hub or a file, loaded as timm itself loads them."""

import argparse
import logging
import pickle
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from core.backbone import ALIASES, create_backbone
from core.errors import UserError, first_line
from core.files import disguised

# Where training scripts put the weights in a checkpoint, an average before what it averages.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
    *("state_dict", "model_state_dict", "model", "weights", "params", "net", "network", "module"),
    *("teacher", "student"),
)
# What wrappers of a module put before the names of its weights.
PREFIXES = (
    *("module", "_orig_mod", "model", "backbone", "net", "network", "encoder", "base_model"),
    *("trunk", "student", "teacher"),
)
LISTED = 8  # names of tensors in a message


class _Inert:
    """Takes the place of every class in a checkpoint that is neither tensor nor plain data.

    Keeps what the object held, so that the weights of a pickled model can be found.
    """

    def __new__(cls, *args, **keywords):
        return object.__new__(cls)

    def __init__(self, *args, **keywords):
        pass

    def __setstate__(self, state):
        self.state = state if isinstance(state, dict) else {}

    def tensors(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """What state_dict() would give, if this was a torch.nn.Module."""
        state = getattr(self, "state", {})
        own = {**_tensors(state.get("_parameters")), **_tensors(state.get("_buffers"))}
        found = {prefix + name: tensor for name, tensor in own.items()}
        for name, child in (state.get("_modules") or {}).items():
            if isinstance(child, _Inert):
                found |= child.tensors(f"{prefix}{name}.")
        return found


def load_pretrained(model, source: str, partial: bool = False) -> str:
    """Fill `model.backbone` from `source` and say what was done.

    `source` is "no", "yes" (timm's own weights), `hf-hub:USER/NAME`, `local-dir:PATH`, or a file or
    folder of weights, which pass through the architecture's own filter, as in timm: other layouts
    are renamed, position embeddings and bias tables resampled to the size.
    UserError if they cannot be read, or, unless `partial`, if anything but the classifier would
    stay random.
    """
    if source == "no":
        return "none (random start)"
    architecture, keywords = model.description["architecture"], model.description["model_kwargs"]
    origin = model.description.get("source") or architecture
    if source == "yes":
        with _reported() as reports:
            loaded = _fetched(origin, model.description["resize"], keywords)
        what = f"ImageNet weights of {ALIASES.get(origin, origin)}"
    else:
        path = Path(source)
        if path.suffix == ".npz":  # the JAX layout, which a model reads by a loader of its own
            overlay = {"file": str(_existing(path)), "custom_load": True}
        else:
            overlay = {"state_dict": _bare(read_weights(source), model.backbone)}
        overlay |= {"source": None}
        # The copy of the backbone must not take from the random numbers of the training.
        with torch.random.fork_rng(devices=[]), _reported() as reports:
            try:
                loaded = create_backbone(
                    *(architecture, model.description["resize"], keywords),
                    **{"pretrained": True, "pretrained_cfg_overlay": overlay},
                )
            except UserError as error:
                raise UserError(
                    f"--pretrained {source}: does not fit {architecture}, these are weights of "
                    f"another model ({first_line(error)})"
                ) from None
        what = source
    missing, unused = reports[-1] if reports else ([], [])
    own = len(loaded.state_dict())
    if missing:
        listed = f"{_few(missing)} of {architecture}"
        if not partial:
            alien = 2 * len(missing) > own
            raise UserError(
                f"--pretrained {source}: {len(missing)} of {own} tensors are missing there or of "
                f"another shape, and would stay random: {listed}; "
                + ("these are weights of another model" if alien else "give other weights")
                + ", or --pretrained_partial yes to train like that"
            )
        what += f", random: {listed}"
    broken = [name for name, tensor in loaded.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"--pretrained {source}: {len(broken)} of {own} tensors hold NaN or infinity: "
            f"{_few(broken)}; give other weights"
        )
    model.backbone.load_state_dict(loaded.state_dict())
    what += f" ({own - len(missing)} of {own} tensors"
    return what + (f"; unused: {_few(unused)})" if unused else ")")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _fetched(architecture: str, resize, keywords) -> nn.Module:
    """The backbone with the weights that timm has for it, from the hub or its cache."""
    try:
        return create_backbone(architecture, resize, keywords, pretrained=True)
    except UserError as error:
        raise UserError(
            f"--pretrained yes: the weights of {ALIASES.get(architecture, architecture)} cannot be "
            f"fetched ({first_line(error)}); connect to the network once, or give a file with "
            "--pretrained FILE, or train from nothing with --pretrained no"
        ) from None


@contextmanager
def _reported():
    """A list of (missing, unused) names of tensors, one for each state dict that is loaded.

    timm reports neither to its caller. Tensors of another shape count as missing instead of ending
    the load; buffers that the model computes itself count as neither.
    """
    reports, original = [], nn.Module.load_state_dict
    log = logging.getLogger("timm.models._builder")  # it lists every unused name
    level = log.level

    def load_state_dict(module, state, *args, **keywords):
        own = module.state_dict()
        fitting = {k: v for k, v in state.items() if k not in own or own[k].shape == v.shape}
        result = original(module, fitting, strict=False)
        learnt = {name for name, _ in module.named_parameters()}
        learnt |= {name for name in own if name.endswith(("running_mean", "running_var"))}
        missing = [name for name in result.missing_keys if name in learnt]
        reports.append((missing, result.unexpected_keys))
        return result

    nn.Module.load_state_dict = load_state_dict
    log.setLevel(logging.ERROR)
    try:
        yield reports
    finally:
        nn.Module.load_state_dict = original
        log.setLevel(level)


def read_weights(source: str) -> dict[str, torch.Tensor]:
    """The tensors of a file (safetensors or torch), folder or hub model, out of their wrappers.

    Nothing in a file is run: a class that is no tensor is replaced by one that does nothing.
    UserError if the file is missing, broken or holds no tensors.
    """
    if source.startswith(("hf-hub:", "hf_hub:")):
        import timm

        try:
            return timm.models.load_state_dict_from_hf(source.partition(":")[2])
        except Exception as error:  # no network, no such model: whatever the hub's client says
            raise UserError(
                f"--pretrained {source}: cannot be fetched ({type(error).__name__})"
            ) from None
    if "://" in source:
        raise UserError(f"--pretrained {source}: an address; download it and give the file")
    path = Path(source.removeprefix("local-dir:"))
    if path.is_dir():
        names = ("model.safetensors", "pytorch_model.bin", "model.pth")
        path = next((path / name for name in names if (path / name).is_file()), path / names[0])
    _existing(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
        if start[8:] == b"{":  # safetensors, by whatever name
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = _unwrapped(_torch_load(path))
    except Exception as error:
        raise UserError(
            f"--pretrained {path}: cannot be read as weights ({_reason(path, error)}); give a "
            "safetensors file or a torch file of plain tensors"
        ) from None
    return state


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with path.open("rb") as stream:
        start = stream.read(64)
    if reason := disguised(start):
        return reason
    if path.suffix == ".safetensors":
        return "cut off or damaged; fetch it again"
    if "TorchScript" in str(error):
        return "a TorchScript archive; save the state_dict() of the model in it"
    if "PytorchStreamReader" in str(error) or "SafetensorError" in type(error).__name__:
        return "cut off or damaged; fetch it again"
    if isinstance(error, pickle.UnpicklingError):
        return "not written by torch.save, or it holds code, which is not run"
    return f"{type(error).__name__}: {first_line(error)}"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"--pretrained: {path} does not exist; give yes, no or a file of weights")
    return path


def _torch_load(path: Path):
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file in the format before torch 1.6, or none at all: torch.load decides
        unknown = ["argparse.Namespace"]
    ignored = [(_Inert, name) for name in unknown if name != "argparse.Namespace"]
    globals_known = torch.serialization.safe_globals([argparse.Namespace, *ignored])
    with globals_known, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a TorchScript archive; the error names it
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(state, depth: int = 4) -> dict[str, torch.Tensor]:
    """The dictionary of tensors inside of a checkpoint, `depth` wrappers deep at most."""
    found = _within(state, depth)
    if not found:
        raise ValueError("no tensors by name; save model.state_dict()")
    return found


def _within(state, depth: int) -> dict[str, torch.Tensor]:
    if isinstance(state, _Inert):
        return state.tensors()
    if isinstance(state, list | tuple):
        state = dict(enumerate(state))
    if not isinstance(state, dict) or not depth:
        return {}
    for name in WRAPPERS:
        if isinstance(state.get(name), dict | _Inert) and (
            found := _within(state[name], depth - 1)
        ):
            return found
    # Else the tensors here, or a wrapper of another name: what holds most tensors.
    inside = (_within(value, depth - 1) for value in state.values())
    return _tensors(state) or max(inside, key=len, default={})


def _tensors(state) -> dict[str, torch.Tensor]:
    items = state.items() if isinstance(state, dict) else ()
    return {k: v for k, v in items if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _bare(state: dict, backbone: nn.Module) -> dict:
    """`state` without what wrappers put before its names; other parts of a wrapper are left out."""
    own = {name.partition(".")[0] for name in backbone.state_dict()}
    while True:
        counts = Counter(name.partition(".")[0] for name in state if "." in name)
        known = own.union(PREFIXES)
        inside = Counter(name.split(".")[0] for name in state if _second(name) in known)
        wrappers = [
            first
            for first in counts
            if first not in own and (first in PREFIXES or 2 * inside[first] > counts[first])
        ]
        # of two networks with as many tensors the average
        first = max(wrappers, key=lambda name: (counts[name], "ema" in name), default=None)
        # Names of the backbone itself beside a prefix (`head`, say) tell nothing if they are few.
        if first is None or (own & set(counts) and 2 * counts[first] <= len(state)):
            return state
        state = {
            name.removeprefix(f"{first}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{first}.")
        }


def _second(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]
