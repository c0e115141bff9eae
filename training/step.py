"""One training step: mixing, the forward pass, the loss."""

from typing import NamedTuple

import torch

from core.labels import ATTRIBUTES, decode
from loss import completed, scores_of, soft_targets, years_loss
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

    def __call__(self, own, of_partners):
        """What is the photos' own (B, ...) and what is their partners' -> that of the mix."""
        return torch.lerp(of_partners, own, self.share)


def mix(images, masks, args, generator):
    """Mix the batch in pairs, as --mixup, --half_face and --cutmix ask: images, Blend or None."""
    draw = generator.random()
    if draw < args.mixup:
        share = float(generator.beta(0.4, 0.4))
        partner = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        blend = Blend(partner, share)
        images = images.float()
        return blend(images, images[partner]), blend
    if draw < args.mixup + args.half_face:
        partner = torch.from_numpy(augmentation.partners(masks, generator)).to(images.device)
        left = torch.from_numpy(generator.random(len(images)) < 0.5).to(images.device)
        return augmentation.half_face(images, partner, left), Blend(partner, 0.5)
    if draw < args.mixup + args.half_face + args.cutmix:
        partner = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        images, share = augmentation.cutmix(images, partner, generator)
        return images, Blend(partner, share)
    return images, None


def total_loss(output, targets, blend, criterion, args):
    """The criterion and the years head's own term, on the Targets of a batch.

    With --attribute the criterion sees that attribute alone, the years head's term only age.
    `output` is what the model returns with `return_years=True`; `blend` is None for plain photos.
    """
    scores, years = output
    scores = scores_of(scores, args.attribute)

    def mixed(of_targets):
        if blend is None:
            return of_targets(targets)
        return blend(of_targets(targets), of_targets(targets[blend.partner]))

    def target_of(targets):
        target = completed(classes_of(targets.classes, args.attribute), scores)
        return target if blend is None else soft_targets(target, scores.shape[1])

    def term_of(targets):
        return years_loss(years, targets.youngest, targets.oldest, args.years_sigma)

    loss = criterion(scores, mixed(target_of))
    if years is not None and args.attribute in (None, "age"):
        loss = loss + args.years_weight * mixed(term_of).mean()
    return loss


def classes_of(classes, attribute: str | None):
    """Class indices or possible classes of all 18 -> those of one attribute; None: as they are."""
    if attribute is None:
        return classes
    axis = list(ATTRIBUTES).index(attribute)
    if classes.dtype != torch.bool:
        return decode(classes)[axis]
    others = [1 + other for other in range(len(ATTRIBUTES)) if other != axis]
    return classes.unflatten(1, [len(names) for names in ATTRIBUTES.values()]).any(others)
