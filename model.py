"""The model: a timm backbone and a head that gives 18 log-scores.

It takes uint8 (or 0..255 float) photos (B, 3, H, W) and normalises them itself, so that the
statistics that trained it always serve it. A new head: a class here and its name in HEADS.
"""

from contextlib import nullcontext

import torch
from torch import nn

from core.backbone import SOURCES, create_backbone, locate
from core.labels import AGES, CLASSES, GENDERS, MASKS, OFFICIAL_BANDS
from core.weights import load_pretrained as load_pretrained

YEARS = 100  # the years head knows the ages 0..99


class JointHead(nn.Linear):
    """18 independent logits."""

    def __init__(self, features: int, training_bands=OFFICIAL_BANDS):
        super().__init__(features, CLASSES)


class FactoredHead(nn.Module):
    """Mask, gender and age logits whose sum over the three axes is the 18 logits."""

    def __init__(self, features: int, training_bands=OFFICIAL_BANDS):
        super().__init__()
        self.mask = nn.Linear(features, len(MASKS))
        self.gender = nn.Linear(features, len(GENDERS))
        self.age = nn.Linear(features, len(AGES))

    def forward(self, features):
        return self.join(self.mask(features), self.gender(features), self.age(features))

    def learn_only(self, attribute: str) -> None:
        """Give the other attributes no say: their logits are 0 and stay 0."""
        for name, layer in self.named_children():
            if name != attribute:
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter).requires_grad_(False)

    @staticmethod
    def join(mask, gender, age):
        """(B, 3), (B, 2), (B, 3) log-scores -> (B, 18) in the order of the labels."""
        scores = mask[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]
        return scores.flatten(1)


class YearsHead(FactoredHead):
    """As FactoredHead, with a distribution over the years of age.

    A band's log-score is the log of its share of the distribution. In training the bands are the
    training label's, else the official ones: shifted bands need no other model. With `return_years`
    the logits of the years (B, 100) too, from which the loss takes a term of its own.
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


# Each takes features (B, F), F and the training bands at its making, and gives scores (B, 18).
HEADS = {"joint": JointHead, "factored": FactoredHead, "years": YearsHead}


class MaskClassifier(nn.Module):
    """timm backbone + head: photos (B, 3, H, W) in 0..255 -> (B, 18) float32 log-scores.

    `description` is all that is needed to build the model again and feed it: the metadata of the
    model file.
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
        if architecture.startswith(SOURCES):  # the model file must not need the hub
            description.setdefault("source", architecture)
            architecture, given, _ = locate(architecture)
            model_kwargs = {**given, **(model_kwargs or {})}
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
        self.head = HEADS[head](features, description.get("bands", OFFICIAL_BANDS))
        for name, values in (("mean", mean), ("std", std)):
            values = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) * 255
            self.register_buffer(name, values, persistent=False)
        # For macro-F1, added to the log-scores of predictions.
        self.register_buffer("offsets", torch.zeros(CLASSES))

    def forward(self, images, return_years=False):
        """Photos (B, 3, H, W) -> log-scores (B, 18).

        With `return_years`, for the loss, a pair of them and the logits of the years (B, 100),
        which are None for a head that has none.
        """
        features = self.backbone((images - self.mean) / self.std)
        with self._full_precision(features.device.type):
            features = self.dropout(features.float())
            if return_years and isinstance(self.head, YearsHead):
                return self.head(features, return_years=True)
            scores = self.head(features)
        return (scores, None) if return_years else scores

    @staticmethod
    def _full_precision(device: str):
        """The head computes in fp32: half precision is coarse for log-scores, and it costs little.

        Only where autocast is on: an exported graph has no place for it.
        """
        # The meta device, where flops are counted, has no autocast. (torch.compile cannot trace
        # torch.amp.is_autocast_available.)
        if device != "meta" and torch.is_autocast_enabled(device):
            return torch.autocast(device, enabled=False)
        return nullcontext()

    def log_probabilities(self, images):
        """(B, 18) log-probabilities, offsets included: what is averaged and voted on."""
        return self._with_offsets(self(images))

    def log_probabilities_and_age(self, images):
        """(B, 19): log_probabilities, and the mean of the years head's distribution, in years."""
        scores, years = self(images, return_years=True)
        age = years.softmax(1) @ torch.arange(YEARS, dtype=years.dtype, device=years.device)
        return torch.cat([self._with_offsets(scores), age[:, None]], 1)

    def _with_offsets(self, scores):
        return (scores.log_softmax(1) + self.offsets).log_softmax(1)
