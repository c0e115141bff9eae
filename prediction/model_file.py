"""The model file: weights with a description that says all that inference needs (safetensors)."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from core.files import atomic, disguised
from core.labels import ATTRIBUTES, CLASS_NAMES, CLASSES
from model import HEADS, MaskClassifier
from prediction.tta import VIEWS

FORMAT_VERSION = 1
LARGEST_SIDE = 4096  # pixels of a model's input


def save_model(model: MaskClassifier, path: Path, state: dict | None = None, **metadata) -> None:
    """Write weights (`state`, or the model's), description and `metadata` to a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    description = {
        "format_version": FORMAT_VERSION,
        "class_names": list(CLASS_NAMES),
        **model.description,
        **metadata,
    }
    tensors, places = {}, set()
    for name, tensor in (state or model.state_dict()).items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        # A layer that is used twice (CoaT) is in the state twice, which safetensors refuses.
        tensors[name] = tensor.clone() if place in places else tensor
        places.add(place)
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"mask_classifier": json.dumps(description)})
        except SafetensorError as error:  # of a disk that is full, say
            raise OSError(str(error)) from None


def set_tuned_offsets(path: Path, offsets) -> None:
    """Add class offsets (18,), tuned on out-of-fold predictions, to those in a model file.

    They replace tuned offsets of an earlier time.
    """
    model = load_model(path)
    earlier = torch.tensor(model.description.get("tuned_offsets", [0.0] * CLASSES))
    model.description["tuned_offsets"] = np.asarray(offsets, float).tolist()
    model.offsets += torch.tensor(model.description["tuned_offsets"]) - earlier
    save_model(model, path)


def read_description(path: Path) -> dict:
    """The metadata of a model file; UserError if it is not one, broken or of a newer format."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with path.open("rb") as stream:
            reason = disguised(stream.read(64))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {reason}") from None
    try:
        with safe_open(path, framework="numpy") as file:
            description = json.loads(file.metadata()["mask_classifier"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        if path.suffix == ".ckpt":
            reason = "a checkpoint for --resume; the model is best.safetensors beside it"
        reason = reason or "or only part of one"
        raise UserError(f"{path}: not a model file of this toolkit ({reason})") from None
    return _checked(description, path)


def _numbers(value, count: int) -> bool:
    """Whether `value` is a list of `count` finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )


def _pair(value) -> bool:
    """Whether `value` is a list of two whole numbers from 1 to LARGEST_SIDE."""
    return _numbers(value, 2) and all(type(v) is int and 0 < v <= LARGEST_SIDE for v in value)


RULES = {
    "format_version": lambda v: v == FORMAT_VERSION,
    "class_names": lambda v: v == list(CLASS_NAMES),
    "architecture": lambda v: isinstance(v, str),
    "head": lambda v: v in tuple(HEADS),
    "resize": _pair,
    "crop": lambda v: v is None or _pair(v),
    "mean": lambda v: _numbers(v, 3),
    "std": lambda v: _numbers(v, 3) and min(v) > 0,
    "bands": lambda v: _pair(v) and v[0] < v[1],
    "model_kwargs": lambda v: isinstance(v, dict),
    "macro_f1": lambda v: v is None or isinstance(v, int | float),
    "drawn": lambda v: isinstance(v, bool),
}
OPTIONAL = {
    "drop": lambda v: isinstance(v, int | float) and 0 <= v < 1,
    "framing": lambda v: _numbers(v, 2) and min(v) > 0,
    "tuned_offsets": lambda v: _numbers(v, CLASSES),
    "attribute": lambda v: v in tuple(ATTRIBUTES),
    "tta": lambda v: isinstance(v, list) and set(v) <= set(VIEWS),
}


def _checked(description, path: Path) -> dict:
    if not isinstance(description, dict):
        raise UserError(f"{path}: its metadata is not a table of settings")
    optional = {key: rule for key, rule in OPTIONAL.items() if key in description}
    for key, is_good in (RULES | optional).items():
        if key not in description or not is_good(description[key]):
            value = str(description.get(key, "missing"))[:60]
            raise UserError(f"{path}: metadata {key!r} is {value}, which this version cannot use")
    return description


def load_model(path: Path) -> MaskClassifier:
    """The model in a model file, in eval mode, with `.description`; UserError if it cannot be."""
    from safetensors.torch import load_file

    description = read_description(path)
    settings = {
        key: value
        for key, value in description.items()
        if key not in ("format_version", "class_names")
    }
    model = MaskClassifier(**settings)
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise UserError(
            f"{path}: its weights do not fit {description['architecture']} ({type(error).__name__})"
        ) from None
    return model.eval()
