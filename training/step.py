"""One training step: mixing, the forward pass, the loss."""

import torch

from core.labels import CLASSES
from loss import soft_targets, years_loss, years_target
from training import augmentation


def train_mode(model) -> None:
    """Training mode for all but the batch norms of frozen layers, whose statistics stay those of their weights."""
    model.train()
    for module in model.modules():
        if (
            isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
            and module.weight is not None
            and not module.weight.requires_grad
        ):
            module.eval()


def mix(images, masks, args, generator):
    """Blend or halve the batch in pairs, as --mixup and --half_face ask: images, the partners' positions and the share of the first."""
    draw = generator.random()
    if draw < args.mixup:
        share = float(generator.beta(0.4, 0.4))
        other = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        images = images.float()
        return torch.lerp(images[other], images, share), other, share
    if draw < args.mixup + args.half_face:
        other = torch.from_numpy(augmentation.partners(masks, generator)).to(images.device)
        left = torch.from_numpy(generator.random(len(images)) < 0.5).to(images.device)
        return augmentation.half_face(images, other, left), other, 0.5
    return images, None, 1.0


def total_loss(scores, model, criterion, label, age, other, share, args):
    """The criterion and the years head's own term, on plain or mixed labels."""
    target = label
    if other is not None:
        target = soft_targets(label, CLASSES)
        target = torch.lerp(target[other], target, share)
    loss = criterion(scores, target)
    if args.head == "years":
        logits, model.head.years = (
            model.head.years,
            None,
        )  # taken: what is left of a step cannot be copied with the model
        years = years_target(age, logits.shape[1], args.years_sigma)
        if other is not None:
            years = torch.lerp(years[other], years, share)
        loss = loss + args.years_weight * years_loss(logits, years)
    return loss
