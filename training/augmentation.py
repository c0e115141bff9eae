"""Random augmentation of photos, and mixing within a batch.

A new augmentation is a row of AUGMENTATIONS and its steps in _steps, or a file of your own.
"""

import os
import random
import re
import warnings
from pathlib import Path

import numpy as np

from core.errors import UserError, first_line

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks for a newer release at import

AUGMENTATIONS = {
    "none": "no change",
    "winners": "colour jitter of 0.1 in brightness, contrast, saturation and hue, as the winning "
    "team ran it",
    "mild": "flip, shift, scale, rotation, colour jitter",
    "default": "as mild, wider, with shear, grey photos, blur and erased patches",
    "clahe": "as mild, with the local contrast of half of the photos equalised (CLAHE)",
    "autoaugment": "flip, AutoAugment's policy for ImageNet (Cubuk et al. 2018)",
    "randaugment": "flip, RandAugment: two of 15 operations, magnitude 9 (Cubuk et al. 2019)",
    "augmix": "flip, AugMix: three chains of operations, mixed (Hendrycks et al. 2019)",
}
POLICIES = {
    "autoaugment": "original-mstd0.5",
    "randaugment": "rand-m9-mstd0.5-inc1",
    "augmix": "augmix-m3-w3",
}  # in the words of timm.data.auto_augment, which --augmentation takes too
TIMM = r"(rand|augmix|originalr?|v0r?|3a)(-[a-z]+([0-9.]+|inf))*"
FILES = (".yaml", ".yml", ".json")
SEED_NAMES = {
    "BaseAugmentation": "none",
    "CustomAugmentation": "winners",
}  # class names of the competition's own code


# ---------------------------------------------------------------------------- one photo
def check_name(name: str) -> None:
    """UserError unless `name` is an augmentation's, a policy of timm's or a file."""
    if Path(name).suffix.lower() in FILES:
        if not Path(name).is_file():
            raise UserError(f"--augmentation {name}: does not exist")
    elif not (name in AUGMENTATIONS or name in SEED_NAMES or re.fullmatch(TIMM, name)):
        raise UserError(
            f"--augmentation: there is no {name!r}; known are {', '.join(AUGMENTATIONS)}, policies "
            "of timm such as rand-m5-n3, and files of albumentations (.yaml, .json)"
        )


def augmentation(name: str, size: tuple[int, int] = (256, 192)):
    """A named augmentation, one of timm's policies or a file of albumentations; None for "none".

    Called as `augment(pixels, generator)`: (H, W, 3) uint8 of `size` -> the same shape, a function
    of the photo and of what is drawn from the NumPy generator. Raises UserError for what cannot be
    used.
    """
    name = SEED_NAMES.get(name, name)
    check_name(name)
    if name == "none":
        return None
    import albumentations as A

    if Path(name).suffix.lower() in FILES:
        return _from_file(Path(name), size)
    if name in POLICIES or re.fullmatch(TIMM, name):
        return Policy(POLICIES.get(name, name), size)
    return Steps(A.Compose(_steps(name)))


class Steps:
    """An albumentations.Compose."""

    def __init__(self, compose):
        self.compose = compose

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # set_random_seed would give every transform a generator of its own, all with one seed: a
        # photo that is flipped would always be turned the same way.
        self.compose.set_random_state(generator, random.Random(_seed(generator)))
        return self.compose(image=pixels)["image"]


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _steps(name: str) -> list:
    import albumentations as A
    import cv2

    border = {"border_mode": cv2.BORDER_REFLECT_101, "interpolation": cv2.INTER_LINEAR}
    if name == "winners":
        return [A.ColorJitter((0.9, 1.1), (0.9, 1.1), (0.9, 1.1), (-0.1, 0.1), p=1.0)]
    if name in ("mild", "clahe"):
        shift = (-0.05, 0.05)
        steps = [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(0.9, 1.1), translate_percent=shift, rotate=(-10, 10), p=0.8, **border),
            A.RandomBrightnessContrast(0.2, 0.2, p=0.8),
            A.HueSaturationValue(5, 20, 0, p=0.3),
        ]
        return [*steps, A.CLAHE(p=0.5)] if name == "clahe" else steps
    sides = (0.1, 0.3)
    return [
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
            num_holes_range=(1, 2), hole_height_range=sides, hole_width_range=sides, p=0.3
        ),
    ]


def _from_file(path: Path, size: tuple[int, int]):
    """What albumentations.save wrote: names of its classes and numbers, no code that would run."""
    import albumentations as A
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step = A.from_dict(_of_version_2(content))
        _refuse_unknown([str(warning.message) for warning in said], A.to_dict(step))
        augment = Steps(step if isinstance(step, A.Compose) else A.Compose([step]))
        generator = np.random.default_rng(0)
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        seen = [augment(pixels, generator) for _ in range(8)]
    except Exception as error:  # anything, from YAML to any of its classes
        what = f"has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(
            f"--augmentation {path}: cannot be used ({what}); write it with the save of "
            f"albumentations {A.__version__}"
        ) from None
    for image in seen:
        if getattr(image, "shape", None) != pixels.shape or image.dtype != np.uint8:
            raise UserError(
                f"--augmentation {path}: changes the photo's size or type; leave out resizing, "
                "normalisation and tensors, which are the model's business"
            )
    return augment


def _refuse_unknown(warned: list[str], written: dict) -> None:
    """ValueError for arguments that albumentations does not know: it warns and leaves them out.

    Those that it has `written` itself are no fault of the file: saving RGBShift and a few others
    writes arguments that they do not take.
    """
    for text in warned:
        unknown = re.match(r"Argument\(s\) '(.*)' are not valid for transform (\w+)", text)
        if unknown and set(unknown[1].split(", ")) <= _arguments(written, unknown[2]):
            continue
        if unknown or re.match(r"Transform \w+ has no 'p'", text):
            raise ValueError(text)


def _arguments(content, name: str) -> set[str]:
    """The arguments of all transforms called `name` in what albumentations wrote."""
    if isinstance(content, list):
        return set().union(*(_arguments(value, name) for value in content))
    if not isinstance(content, dict):
        return set()
    own = set(content) if content.get("__class_fullname__") == name else set()
    return own.union(*(_arguments(value, name) for value in content.values()))


def _of_version_2(content):
    """What albumentations 1 saved, without its `always_apply`, which was p = 1."""
    if isinstance(content, list):
        return [_of_version_2(value) for value in content]
    if not isinstance(content, dict):
        return content
    content = {key: _of_version_2(value) for key, value in content.items()}
    return content | {"p": 1.0} if content.pop("always_apply", False) else content


def posterize(image, bits: int, **_):
    """Keep `bits` of each colour. At its highest magnitudes timm asks for 0, refused by Pillow."""
    from PIL import ImageOps

    return ImageOps.posterize(image, min(8, max(1, bits)))


class Policy:
    """A flip and one of timm's policies."""

    def __init__(self, config: str, size: tuple[int, int]):
        from timm.data import auto_augment

        create = {
            "rand": auto_augment.rand_augment_transform,
            "augmix": auto_augment.augment_and_mix_transform,
        }.get(config.split("-")[0], auto_augment.auto_augment_transform)
        for name in ("Posterize", "PosterizeIncreasing", "PosterizeOriginal"):
            auto_augment.NAME_TO_OP[name] = posterize
        grey = {"translate_const": round(min(size) * 0.45), "img_mean": (128, 128, 128)}
        try:
            self.transform = create(config, grey)
        except Exception as error:
            raise UserError(
                f"--augmentation {config}: timm knows no such policy ({first_line(error)})"
            ) from None

    def __call__(self, pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        from PIL import Image

        states = random.getstate(), np.random.get_state()  # timm draws from the global ones
        random.seed(_seed(generator))
        np.random.seed(_seed(generator))
        try:
            if random.random() < 0.5:
                pixels = pixels[:, ::-1]
            return np.array(self.transform(Image.fromarray(np.ascontiguousarray(pixels))))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


# ---------------------------------------------------------------------------- a batch
def partners(masks, generator):
    """For each photo of a batch another one of the same mask state: positions (B,).

    A photo that is the only one of its state is its own partner.
    """
    order = np.arange(len(masks))
    for mask in np.unique(masks):
        members = generator.permutation(np.flatnonzero(masks == mask))
        order[members] = np.roll(members, 1)
    return order


def half_face(images, order, left):
    """Half-face CutMix: each photo keeps one half and takes the other from photo `order[i]`.

    images (B, C, H, W) -> the same shape; `left` (B,) says which half stays. Both halves weigh 1/2
    in the label.
    """
    import torch

    half = torch.arange(images.shape[-1], device=images.device) < images.shape[-1] // 2
    keep = half[None, None, None, :] == left[:, None, None, None]
    return torch.where(keep, images, images[order])


def cutmix(images, order, generator):
    """CutMix: a box of each photo is that of photo `order[i]` (Yun et al. 2019,
    https://arxiv.org/abs/1905.04899).

    images (B, C, H, W) -> the same shape, and the share of each photo that is its own. The box
    covers Beta(1, 1) of the photo, less what lies outside.
    """
    height, width = images.shape[-2:]
    side = np.sqrt(generator.random())
    y, x = generator.random(2) * (height, width)
    half_height, half_width = side * height / 2, side * width / 2
    top, bottom = (round(np.clip(edge, 0, height)) for edge in (y - half_height, y + half_height))
    left, right = (round(np.clip(edge, 0, width)) for edge in (x - half_width, x + half_width))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
