"""One training step: mixing, the forward pass, the loss."""

from typing import NamedTuple

import torch

from core.labels import ATTRIBUTES, decode
from loss import scores_of, soft_targets, years_loss
from training import augmentation


def train_mode(model) -> None:
    """Training mode for all but the batch norms of frozen layers, which keep their statistics."""
    model.train()
    for module in model.modules():
        if (
            isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and module.weight is not None
            and not module.weight.requires_grad
        ):
            module.eval()


class Blend(NamedTuple):
    """How a batch is mixed: `share` of each photo, the rest of its partner in the batch."""

    partner: torch.Tensor  # (B,) positions
    share: float

    def __call__(self, target):
        """Targets (B, ...) of the photos -> those of the mixed photos."""
        return torch.lerp(target[self.partner], target, self.share)


def mix(images, masks, args, generator):
    """Mix the batch in pairs, as --mixup, --half_face and --cutmix ask: images, Blend or None."""
    draw = generator.random()
    if draw < args.mixup:
        share = float(generator.beta(0.4, 0.4))
        partner = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        blend = Blend(partner, share)
        return blend(images.float()), blend
    if draw < args.mixup + args.half_face:
        partner = torch.from_numpy(augmentation.partners(masks, generator)).to(images.device)
        left = torch.from_numpy(generator.random(len(images)) < 0.5).to(images.device)
        return augmentation.half_face(images, partner, left), Blend(partner, 0.5)
    if draw < args.mixup + args.half_face + args.cutmix:
        partner = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        images, share = augmentation.cutmix(images, partner, generator)
        return images, Blend(partner, share)
    return images, None


def total_loss(output, labels, ages, top_age, blend, criterion, args):
    """The criterion and the years head's own term, on labels (B,) and ages (B,).

    With --attribute the criterion sees that attribute alone, the years head's term only age.
    `output` is what the model returns with `return_years=True`; `blend` is None for plain photos;
    `top_age` is the highest age of the training people (`loss.years_loss`).
    """
    scores, years = output
    if args.attribute:
        scores = scores_of(scores, args.attribute)
        labels = decode(labels)[list(ATTRIBUTES).index(args.attribute)]
    target = labels if blend is None else blend(soft_targets(labels, scores.shape[1]))
    loss = criterion(scores, target)
    if years is not None and args.attribute in (None, "age"):
        term = years_loss(years, ages, args.years_sigma, top_age)
        if blend is not None:
            of_partners = years_loss(years, ages[blend.partner], args.years_sigma, top_age)
            term = torch.lerp(of_partners, term, blend.share)
        loss = loss + args.years_weight * term.mean()
    return loss
