"""Random augmentation of photos (albumentations), and mixing within a batch."""

import os

import numpy as np

from core.errors import UserError

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # no look for a newer release at every import


AUGMENTATIONS = {
    "none": "no change",
    "winners": "colour jitter of 0.1 in brightness, contrast, saturation and hue, as the winning team ran it",
    "mild": "flip, shift, scale, rotation, colour jitter",
    "default": "as mild, wider, with shear, grey photos, blur and erased patches",
}


SEED_NAMES = {
    "BaseAugmentation": "none",
    "CustomAugmentation": "winners",
}  # class names of the competition's own code


def augmentation(name: str, seed: int = 0):
    """The named augmentation as an albumentations.Compose over (H, W, 3) uint8 `image`; None for "none"."""
    name = SEED_NAMES.get(name, name)
    if name not in AUGMENTATIONS:
        raise UserError(
            f"--augmentation: there is no {name!r}; known are {', '.join([*AUGMENTATIONS, *SEED_NAMES])}"
        )
    if name == "none":
        return None
    import albumentations as A
    import cv2

    cv2.setNumThreads(0)  # one photo is too small a job to be shared out
    border = {"border_mode": cv2.BORDER_REFLECT_101, "interpolation": cv2.INTER_LINEAR}
    if name == "winners":
        steps = [A.ColorJitter((0.9, 1.1), (0.9, 1.1), (0.9, 1.1), (-0.1, 0.1), p=1.0)]
    elif name == "mild":
        steps = [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), rotate=(-10, 10), p=0.8, **border
            ),
            A.RandomBrightnessContrast(0.2, 0.2, p=0.8),
            A.HueSaturationValue(5, 20, 0, p=0.3),
        ]
    else:
        steps = [
            A.HorizontalFlip(p=0.5),
            A.Affine(
                scale=(0.8, 1.2),
                translate_percent=(-0.08, 0.08),
                rotate=(-15, 15),
                shear=(-5, 5),
                p=0.9,
                **border,
            ),
            A.RandomBrightnessContrast(0.3, 0.3, p=0.8),
            A.HueSaturationValue(8, 30, 0, p=0.4),
            A.ToGray(p=0.1),
            A.GaussianBlur(blur_limit=(3, 5), p=0.1),
            A.CoarseDropout(
                num_holes_range=(1, 2),
                hole_height_range=(0.1, 0.3),
                hole_width_range=(0.1, 0.3),
                p=0.3,
            ),
        ]
    return A.Compose(steps, seed=seed)


def partners(masks, generator):
    """For each photo of a batch another one of the same mask state (itself if it is the only one): positions (B,)."""
    order = np.arange(len(masks))
    for mask in np.unique(masks):
        members = generator.permutation(np.flatnonzero(masks == mask))
        order[members] = np.roll(members, 1)
    return order


def half_face(images, order, left):
    """Half-face CutMix: each photo keeps one half and takes the other from photo `order[i]`; `left` (B,) says which half stays.

    images (B, C, H, W) -> the same shape. Both halves weigh 1/2 in the label. CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899.
    """
    import torch

    half = torch.arange(images.shape[-1], device=images.device) < images.shape[-1] // 2
    keep = half[None, None, None, :] == left[:, None, None, None]
    return torch.where(keep, images, images[order])
