"""A timm backbone with a head of 18 log-scores, and the self-describing file it is saved in.

The model takes uint8 (or 0..255 float) photos (B, 3, H, W) and normalises them itself: the statistics that trained it always serve it.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import machine
import transforms
from cli import VIEWS, UserError, atomic
from dataset import AGES, CLASS_NAMES, CLASSES, GENDERS, MASKS, OFFICIAL_BANDS

FORMAT_VERSION = 1
ALIASES = {"SwinTransformerLarge384": "swin_large_patch4_window12_384.ms_in22k"}
YEARS = 100  # the years head knows the ages 0..99
HEADER_LIMIT = 1_000_000  # bytes of safetensors header; ours take some 50 kB


# ---------------------------------------------------------------------------- heads: features (B, F) -> log-scores (B, 18)


class JointHead(nn.Linear):
    """18 independent logits."""

    def __init__(self, features: int):
        super().__init__(features, CLASSES)


class FactoredHead(nn.Module):
    """Mask, gender and age logits whose sum over the three axes is the 18 logits."""

    def __init__(self, features: int):
        super().__init__()
        self.mask = nn.Linear(features, len(MASKS))
        self.gender = nn.Linear(features, len(GENDERS))
        self.age = nn.Linear(features, len(AGES))

    def forward(self, features):
        return self.join(self.mask(features), self.gender(features), self.age(features))

    @staticmethod
    def join(mask, gender, age):
        """(B, 3), (B, 2), (B, 3) log-scores -> (B, 18) in the order of the labels."""
        return (mask[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]).flatten(1)


class YearsHead(FactoredHead):
    """As FactoredHead, with a distribution over the years of age; a band's log-score is the log of its share of it.

    In training the bands are the training label's, else the official ones: shifted bands need no other model.
    `years` holds the logits (B, 100) of the last forward pass in training, from which the criterion takes a term of its own.
    Label distributions over ages: Gao et al. 2017, https://arxiv.org/abs/1611.01731.
    """

    def __init__(self, features: int, training_bands=OFFICIAL_BANDS):
        super().__init__(features)
        self.age = nn.Linear(features, YEARS)
        self.training_bands = tuple(training_bands)
        self.years = None

    def forward(self, features):
        logits = self.age(features).float()
        self.years = logits if self.training else None
        parts = logits.log_softmax(1).tensor_split(self.training_bands if self.training else OFFICIAL_BANDS, dim=1)
        return self.join(self.mask(features), self.gender(features), torch.stack([part.logsumexp(1) for part in parts], 1))


HEADS = {"joint": JointHead, "factored": FactoredHead, "years": YearsHead}


# ---------------------------------------------------------------------------- the model


class MaskClassifier(nn.Module):
    """timm backbone + head: photos (B, 3, H, W) in 0..255 -> (B, 18) float32 log-scores.

    `description` is all that is needed to build the model again and feed it: it becomes the metadata of the model file.
    """

    def __init__(self, architecture, head="factored", resize=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, model_kwargs=None, **description):
        super().__init__()
        self.description = {
            "architecture": architecture, "head": head, "resize": list(resize), "mean": list(mean), "std": list(std),
            "model_kwargs": model_kwargs or {}, **description,
        }  # fmt: skip
        self.backbone = create_backbone(architecture, resize, model_kwargs)
        features = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.dropout = nn.Dropout(description.get("drop", 0.0))
        self.head = YearsHead(features, description.get("bands", OFFICIAL_BANDS)) if head == "years" else HEADS[head](features)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("offsets", torch.zeros(CLASSES))  # added to the log-scores when answering; tuned after training

    def forward(self, images):
        images = (images - self.mean) / self.std
        return self.head(self.dropout(self.backbone(images))).float()

    def log_probabilities(self, images):
        """(B, 18) log-probabilities, tuned offsets included: what is answered, averaged and voted on."""
        return (self(images).log_softmax(1) + self.offsets).log_softmax(1)


def create_backbone(architecture: str, resize=(224, 224), model_kwargs=None, pretrained=False) -> nn.Module:
    """A timm model without its classifier; UserError for an unknown name or keyword, or weights that cannot be fetched."""
    import timm

    name = ALIASES.get(architecture, architecture)
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name[:6]}*")[:4] if len(name) >= 3 else []
        hint = f"; near are {', '.join(near)}" if near else ""
        raise UserError(f"--model: timm {timm.__version__} has no model {architecture!r}{hint}")
    keywords = dict(model_kwargs or {})
    config = timm.get_pretrained_cfg(name)
    if config and config.fixed_input_size and tuple(config.input_size[1:]) != tuple(resize):
        keywords.setdefault("img_size", tuple(resize))
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **keywords)
    except (TypeError, AssertionError) as error:
        raise UserError(f"--model {architecture}: {str(error).splitlines()[0] if str(error) else 'does not take this --resize'}") from None
    except Exception as error:  # whatever the hub's client raises: no network, no such weights
        if not pretrained:  # whatever a constructor raises for sizes and keywords it cannot serve
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UserError(f"--model {architecture}: cannot be made with this --resize and --model_kwargs ({reason})") from None
        raise UserError(
            f"--pretrained yes: the ImageNet weights of {name} cannot be fetched ({type(error).__name__}); connect to the network once, "
            "or give a file with --pretrained FILE, or train from nothing with --pretrained no"
        ) from None


def load_pretrained(model: MaskClassifier, source: str) -> str:
    """Fill the backbone from `source`: "no", "yes" (timm's own weights) or a file (safetensors, or torch weights). Says what was done.

    Raises UserError if the weights cannot be fetched or read, or hardly any fits the architecture.
    """
    architecture = model.description["architecture"]
    if source == "no":
        return "none (random start)"
    if source == "yes":
        keywords = model.description["model_kwargs"]
        state = create_backbone(architecture, model.description["resize"], keywords, pretrained=True).state_dict()
        model.backbone.load_state_dict(state)
        return f"ImageNet weights of {ALIASES.get(architecture, architecture)}"
    state = read_weights(Path(source))
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    own = model.backbone.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    missing = [name for name in own if name not in fitting and not name.endswith("num_batches_tracked")]
    if len(missing) > 0.1 * len(own):
        raise UserError(f"--pretrained {source}: {len(missing)} of {len(own)} tensors of {architecture} are missing there or of another "
                        f"shape, first {missing[0]}; these are weights of another model")
    model.backbone.load_state_dict(fitting, strict=False)
    return f"{source} ({len(fitting)} of {len(own)} tensors)"


def read_weights(path: Path) -> dict:
    """The tensors of a safetensors or (weights only) torch file; UserError if it is missing, broken or would run code."""
    if not path.is_file():
        raise UserError(f"--pretrained: {path} does not exist; give yes, no or a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state.get("model", state))
        return {name: tensor for name, tensor in state.items() if isinstance(name, str) and isinstance(tensor, torch.Tensor)}
    except Exception as error:
        raise UserError(f"--pretrained {path}: cannot be read as weights ({type(error).__name__}); "
                        "give a safetensors file or a torch file of plain tensors") from None


def backbone_config(architecture: str) -> dict:
    """What a backbone's pretrained weights expect: mean and std of the pixels (0 to 1), resize (H, W), and whether that size is fixed."""
    import timm

    config = timm.get_pretrained_cfg(ALIASES.get(architecture, architecture), allow_unregistered=True) or timm.models.PretrainedCfg()
    return {"mean": list(config.mean), "std": list(config.std), "resize": list(config.input_size[1:]), "fixed": config.fixed_input_size}


# ---------------------------------------------------------------------------- answering


def to_model(pixels, device, channels_last: bool):
    """A batch as the loader gives it, (B, H, W, 3) uint8 -> (B, 3, H, W) uint8 on the device, in the layout the model wants."""
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


@torch.no_grad()
def fold_batch_norms(model: MaskClassifier) -> int:
    """Put each batch norm of the backbone that follows a convolution into that convolution's weights; their number.

    For answering only: the same function, up to rounding, in about half the time for the small CNNs. Pairs are found by watching
    one forward pass. Where one cannot be told from it (a convolution used twice, or whose output goes elsewhere too), or the answers
    would change, the model stays as it was.
    """
    made, pairs, hooks = {}, [], []

    def follows(norm, inputs):
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda conv, _, output: made.update({id(output): (conv, output)})))
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(follows))
    photos = torch.randint(0, 256, (2, 3, *model.description["resize"]), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    before = model.eval()(photos)
    for hook in hooks:
        hook.remove()
    if len({conv for conv, _ in pairs}) < len(pairs) or len({norm for _, norm in pairs}) < len(pairs):
        return 0
    undo = []
    places = {child: (module, name) for module in model.backbone.modules() for name, child in module.named_children()}
    for conv, norm in pairs:
        after = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]  # of timm's BatchNormAct2d
        for old, new in ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Sequential(*after) if after else nn.Identity())):
            undo.append((*places[old], old))
            setattr(*places[old], new.eval())
    if torch.allclose(model(photos), before, atol=1e-3):
        return len(pairs)
    for place in undo:
        setattr(*place)
    return 0


def views_of(description: dict, wish=None) -> list[str]:
    """The views that an answer is averaged over besides the photo itself: `wish`, else those the model was validated with."""
    return description.get("tta", []) if wish is None else wish


@torch.inference_mode()
def predict(model, loader, size: int, fabric, channels_last: bool, views=(), precision=None, ways: int = 1):
    """Log-probabilities (size, 18) float32 of all photos that `loader` serves as (pixels, row), averaged over `views`.

    In `precision` (fp32, bf16, fp16), else in the one that `fabric` was made with; `ways` batches at a time (machine.at_a_time).
    A row below 0 marks a photo that could not be read: its answer is nan. Where the model gives no numbers (fp16 overflows), all is
    answered again in fp32; what is no number there either is inf.
    Rows are put where they belong and gathered over all processes, so a photo counts once however the work is shared out.
    """
    model.eval()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    answers = torch.zeros(size, CLASSES, device=fabric.device)
    served = torch.zeros(size, 1, device=fabric.device)

    @torch.inference_mode()  # it holds for one thread alone
    def answer(pixels, rows):
        images = to_model(pixels, fabric.device, channels_last)
        rows = rows.to(fabric.device, non_blocking=True)
        with torch.autocast(fabric.device.type, dtype, enabled=precision != "fp32") if precision else fabric.autocast():
            if views:
                images = images.float()
            seen = [model.log_probabilities(view) for view in transforms.views(images, views)]
        unread = rows < 0
        rows = torch.where(unread, -1 - rows, rows)
        mean = torch.stack(seen).logsumexp(0) - math.log(len(seen))
        answers[rows] = mean.nan_to_num(torch.inf).masked_fill(unread[:, None], torch.nan)
        served[rows] = 1.0

    machine.share_out(loader, answer, ways)
    if fabric.world_size > 1:
        answers, served = fabric.all_reduce(answers, reduce_op="sum"), fabric.all_reduce(served, reduce_op="sum")
    answers = (answers / served).cpu().numpy()
    if np.isposinf(answers).any() and precision != "fp32":
        return predict(model, loader, size, fabric, channels_last, views, "fp32", ways)
    return answers


# ---------------------------------------------------------------------------- the model file


def save_model(model: MaskClassifier, path: Path, state: dict | None = None, **metadata) -> None:
    """Write weights (`state`, or the model's own) and description + `metadata` to one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    description = {"format_version": FORMAT_VERSION, "class_names": list(CLASS_NAMES), **model.description, **metadata}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or model.state_dict()).items()}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"mask_classifier": json.dumps(description)})
        except SafetensorError as error:  # of a disk that is full, say
            raise OSError(str(error)) from None


def set_offsets(path: Path, offsets) -> None:
    """Put class offsets (18,), tuned on out-of-fold predictions, into a model file."""
    model = load_model(path)
    model.offsets.copy_(torch.as_tensor(offsets))
    save_model(model, path)


def read_description(path: Path) -> dict:
    """The metadata of a model file; UserError with the reason if it is not one of ours, broken or of a newer format."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 2 <= length <= HEADER_LIMIT:
                raise UserError(f"{path}: not a model file (a header of {length} bytes)")
            header = json.loads(stream.read(length))
            description = json.loads(header["__metadata__"]["mask_classifier"])
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: not a model file of this toolkit (or only part of one)") from None
    return _checked(description, path)


def _checked(description, path: Path) -> dict:
    def pair(value):
        return isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 < v <= 4096 for v in value)

    def triple(value):
        return isinstance(value, list) and len(value) == 3 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in value)

    def increasing(value):
        return pair(value) and value[0] < value[1]

    rules = {
        "format_version": lambda v: v == FORMAT_VERSION,
        "class_names": lambda v: v == list(CLASS_NAMES),
        "architecture": lambda v: isinstance(v, str),
        "head": lambda v: v in tuple(HEADS),
        "resize": pair,
        "crop": lambda v: v is None or pair(v),
        "mean": triple,
        "std": lambda v: triple(v) and min(v) > 0,
        "bands": increasing,
        "model_kwargs": lambda v: isinstance(v, dict),
        "macro_f1": lambda v: v is None or isinstance(v, (int, float)),
        "drawn": lambda v: isinstance(v, bool),
    }  # fmt: skip
    if not isinstance(description, dict):
        raise UserError(f"{path}: its metadata is not a table of settings")
    if "drop" in description:
        rules["drop"] = lambda v: isinstance(v, (int, float)) and 0 <= v < 1
    if "tta" in description:
        rules["tta"] = lambda v: isinstance(v, list) and set(v) <= set(VIEWS)
    for key, good in rules.items():
        if key not in description or not good(description[key]):
            raise UserError(f"{path}: metadata {key!r} is {str(description.get(key, 'missing'))[:60]}, which this version cannot serve")
    return description


def load_model(path: Path) -> MaskClassifier:
    """The model in a model file, in eval mode, its description in `.description`; UserError if the file cannot be used."""
    from safetensors.torch import load_file

    description = read_description(path)
    settings = {key: value for key, value in description.items() if key not in ("format_version", "class_names")}
    model = MaskClassifier(**settings)
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise UserError(f"{path}: its weights do not fit {description['architecture']} ({type(error).__name__})") from None
    return model.eval()
