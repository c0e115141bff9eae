"""timm's models by name: what a backbone expects, what it is made of, and how it is built."""

import warnings
from functools import cache

import timm
import torch
from torch import nn

from core.errors import UserError, first_line

ALIASES = {"SwinTransformerLarge384": "swin_large_patch4_window12_384.ms_in22k"}
SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


@cache
def locate(architecture: str) -> tuple[str, dict, dict | None]:
    """timm's name of `architecture`, the keywords its source adds, and the source's own config.

    `architecture` is a name (timm's, an alias, one from before timm 0.9), or `hf-hub:USER/NAME` or
    `local-dir:PATH`, whose config.json holds the other two. UserError for a name timm has not.
    """
    name, keywords, config = ALIASES.get(architecture, architecture), {}, None
    if name.startswith(SOURCES):
        source, _, place = name.partition(":")
        try:
            if source == "local-dir":
                found = timm.models._hub.load_model_config_from_path(place)
            else:
                found = timm.models.load_model_config_from_hf(place)
        except Exception as error:  # no network, no such model, no config: whatever the client says
            raise UserError(
                f"--model {architecture}: its config.json cannot be read ({type(error).__name__})"
            ) from None
        config, name, keywords = found
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name[:6]}*")[:4] if len(name) >= 3 else []
        hint = f"; near are {', '.join(near)}" if near else ""
        raise UserError(f"--model: timm {timm.__version__} has no model {architecture!r}{hint}")
    return name, {k: v for k, v in keywords.items() if k != "num_classes"}, config


def outline(architecture: str, resize=None, model_kwargs=None) -> nn.Module:
    """The backbone without memory for its weights (on PyTorch's meta device): quickly made."""
    with torch.device("meta"):
        return create_backbone(architecture, resize, model_kwargs)


@cache
def pretrained_config(architecture: str) -> timm.models.PretrainedCfg:
    """timm's config of the pretrained weights, for names from before timm 0.9 too."""
    name, _, config = locate(architecture)
    if config is not None:
        return timm.models.resolve_pretrained_cfg(name, config)
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if found is None:  # an old name: timm knows its new one only when it builds the model
        found = timm.models.PretrainedCfg(**outline(architecture).pretrained_cfg)
    return found


def backbone_config(architecture: str) -> dict:
    """What a backbone's pretrained weights expect.

    mean and std of the pixels (0 to 1), resize (H, W), and whether the size is fixed.
    """
    config = pretrained_config(architecture)
    return {
        "mean": list(config.mean),
        "std": list(config.std),
        "resize": list(config.input_size[1:]),
        "fixed": config.fixed_input_size,
    }


@cache
def is_transformer(architecture: str) -> bool:
    """True for a backbone trained as transformers are: attention, layer scale, mostly LayerNorm.

    ConvNeXt and the MLP mixers are among them: what diverges under SGD at a CNN's learning rate.
    """
    layer_norms = batch_norms = 0
    for module in outline(architecture).modules():
        kind = type(module).__name__
        if hasattr(module, "num_heads") or "Attention" in kind or "LayerScale" in kind:
            return True
        one_group = isinstance(module, nn.GroupNorm) and module.num_groups == 1
        layer_norms += isinstance(module, nn.LayerNorm) or one_group or "rmsnorm" in kind.lower()
        batch_norms += isinstance(module, nn.modules.batchnorm._BatchNorm)
    return layer_norms > batch_norms


def create_backbone(architecture: str, resize=None, model_kwargs=None, **options) -> nn.Module:
    """A timm model without its classifier for photos of `resize` (H, W).

    `options` go to timm.create_model. UserError for a name, size or keyword that timm cannot serve.
    """
    name, given, source = locate(architecture)
    keywords = {**given, **(model_kwargs or {})}
    if source and options.get("pretrained"):
        options.setdefault("pretrained_cfg", source)
    if resize:
        config = pretrained_config(architecture)
        if config.fixed_input_size and tuple(config.input_size[1:]) != tuple(resize):
            keywords.setdefault("img_size", tuple(resize))
    try:
        with warnings.catch_warnings():  # "Mapping deprecated model name": it is what was asked for
            warnings.filterwarnings("ignore", "Mapping deprecated model name")
            return timm.create_model(name, num_classes=0, **keywords, **options)
    except Exception as error:  # whatever a constructor raises for sizes it cannot serve
        raise UserError(
            f"--model {architecture}: cannot be made with this --resize and --model_kwargs "
            f"({type(error).__name__}: {first_line(error)})"
        ) from None


@torch.no_grad()
def check_size(backbone: nn.Module, architecture: str, resize, model_kwargs=None) -> None:
    """UserError if a backbone just made cannot take photos of `resize` (H, W)."""
    photo = torch.zeros(1, 3, *resize)
    try:
        with torch.random.fork_rng([]):  # what is made later must not depend on this
            outline(architecture, resize, model_kwargs).eval()(photo.to("meta"))
    except Exception:  # not every network runs on the meta device, so this one is asked
        try:
            backbone.eval()(photo)
        except Exception as error:  # whatever a network raises for a size it cannot serve
            height, width = backbone_config(architecture)["resize"]
            raise UserError(
                f"--model {architecture}: cannot take photos of {resize[0]} x {resize[1]} "
                f"({type(error).__name__}: {first_line(error)}); try another --resize, such as "
                f"{height} {width}"
            ) from None
        backbone.train()
