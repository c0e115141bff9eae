"""A timm backbone with a head of 18 log-scores, and the self-describing file it is saved in.

The model takes uint8 (or 0..255 float) photos (B, 3, H, W) and normalises them itself: the statistics that trained it always serve it.
"""

from pathlib import Path

import torch
from torch import nn

from core.errors import UserError
from core.labels import AGES, CLASSES, GENDERS, MASKS, OFFICIAL_BANDS

ALIASES = {"SwinTransformerLarge384": "swin_large_patch4_window12_384.ms_in22k"}


YEARS = 100  # the years head knows the ages 0..99


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
        return (mask[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]).flatten(
            1
        )


class YearsHead(FactoredHead):
    """As FactoredHead, with a distribution over the years of age; a band's log-score is the log of its share of it.

    In training the bands are the training label's, else the official ones: shifted bands need no other model.
    With `return_years` the logits of the years (B, 100) too, from which the loss takes a term of its own.
    Label distributions over ages: Gao et al. 2017, https://arxiv.org/abs/1611.01731.
    """

    def __init__(self, features: int, training_bands=OFFICIAL_BANDS):
        super().__init__(features)
        self.age = nn.Linear(features, YEARS)
        self.training_bands = tuple(training_bands)

    def forward(self, features, return_years=False):
        years = self.age(features).float()
        parts = years.log_softmax(1).tensor_split(
            self.training_bands if self.training else OFFICIAL_BANDS, dim=1
        )
        scores = self.join(
            self.mask(features),
            self.gender(features),
            torch.stack([part.logsumexp(1) for part in parts], 1),
        )
        return (scores, years) if return_years else scores


HEADS = {"joint": JointHead, "factored": FactoredHead, "years": YearsHead}


# ---------------------------------------------------------------------------- the model
class MaskClassifier(nn.Module):
    """timm backbone + head: photos (B, 3, H, W) in 0..255 -> (B, 18) float32 log-scores.

    `description` is all that is needed to build the model again and feed it: it becomes the metadata of the model file.
    """

    def __init__(
        self,
        architecture,
        head="factored",
        resize=(224, 224),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        model_kwargs=None,
        **description,
    ):
        super().__init__()
        self.description = {
            "architecture": architecture,
            "head": head,
            "resize": list(resize),
            "mean": list(mean),
            "std": list(std),
            "model_kwargs": model_kwargs or {},
            **description,
        }
        self.backbone = create_backbone(architecture, resize, model_kwargs)
        features = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.dropout = nn.Dropout(description.get("drop", 0.0))
        self.head = (
            YearsHead(features, description.get("bands", OFFICIAL_BANDS))
            if head == "years"
            else HEADS[head](features)
        )
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1) * 255, persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1) * 255, persistent=False
        )
        self.register_buffer(
            "offsets", torch.zeros(CLASSES)
        )  # added to the log-scores when answering; tuned after training

    def forward(self, images, return_years=False):
        """Photos (B, 3, H, W) -> log-scores (B, 18); with `return_years`, for the loss, a pair of them and the logits of the years
        (B, 100), which are None for a head that has none."""
        features = self.dropout(self.backbone((images - self.mean) / self.std))
        if return_years and isinstance(self.head, YearsHead):
            scores, years = self.head(features, return_years=True)
            return scores.float(), years
        scores = self.head(features).float()
        return (scores, None) if return_years else scores

    def log_probabilities(self, images):
        """(B, 18) log-probabilities, tuned offsets included: what is answered, averaged and voted on."""
        return (self(images).log_softmax(1) + self.offsets).log_softmax(1)


def create_backbone(
    architecture: str, resize=(224, 224), model_kwargs=None, pretrained=False
) -> nn.Module:
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
        raise UserError(
            f"--model {architecture}: {str(error).splitlines()[0] if str(error) else 'does not take this --resize'}"
        ) from None
    except Exception as error:  # whatever the hub's client raises: no network, no such weights
        if not pretrained:  # whatever a constructor raises for sizes and keywords it cannot serve
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UserError(
                f"--model {architecture}: cannot be made with this --resize and --model_kwargs ({reason})"
            ) from None
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
        state = create_backbone(
            architecture, model.description["resize"], keywords, pretrained=True
        ).state_dict()
        model.backbone.load_state_dict(state)
        return f"ImageNet weights of {ALIASES.get(architecture, architecture)}"
    state = read_weights(Path(source))
    state = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    own = model.backbone.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape
    }
    missing = [
        name for name in own if name not in fitting and not name.endswith("num_batches_tracked")
    ]
    if len(missing) > 0.1 * len(own):
        raise UserError(
            f"--pretrained {source}: {len(missing)} of {len(own)} tensors of {architecture} are missing there or of another "
            f"shape, first {missing[0]}; these are weights of another model"
        )
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
        return {
            name: tensor
            for name, tensor in state.items()
            if isinstance(name, str) and isinstance(tensor, torch.Tensor)
        }
    except Exception as error:
        raise UserError(
            f"--pretrained {path}: cannot be read as weights ({type(error).__name__}); "
            "give a safetensors file or a torch file of plain tensors"
        ) from None


def backbone_config(architecture: str) -> dict:
    """What a backbone's pretrained weights expect: mean and std of the pixels (0 to 1), resize (H, W), and whether that size is fixed."""
    import timm

    config = (
        timm.get_pretrained_cfg(ALIASES.get(architecture, architecture), allow_unregistered=True)
        or timm.models.PretrainedCfg()
    )
    return {
        "mean": list(config.mean),
        "std": list(config.std),
        "resize": list(config.input_size[1:]),
        "fixed": config.fixed_input_size,
    }
