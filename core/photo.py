"""Pixels of one photo: decoding, turning upright, cropping, resizing; always (H, W, 3) uint8."""

import contextlib
import os
import sys

import numpy as np
from PIL import Image, ImageOps

from core.errors import UserError

REFERENCE = (512, 384)  # height, width: the frame in which crops are given


MAX_PIXELS = 100_000_000


Image.MAX_IMAGE_PIXELS = None  # open_photo keeps the limit: Pillow warns only, and filters of warnings are no business of threads


class PhotoError(UserError):
    """A photo that cannot be used: `path` and the reason in words."""

    def __init__(self, path, reason=None):
        if reason is None:  # made again by PyTorch out of a worker's traceback, or unpickled
            path, _, reason = str(path).strip().rpartition("PhotoError: ")[2].rpartition(": ")
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def crop_box(
    width: int, height: int, crop: tuple[int, int] | None
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom (pixels of the photo) of the centred `crop` (height, width in the
    512 x 384 reference frame).
    """
    if crop is None:
        return 0.0, 0.0, float(width), float(height)
    crop_width = width * min(1.0, crop[1] / REFERENCE[1])
    crop_height = height * min(1.0, crop[0] / REFERENCE[0])
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def open_photo(path) -> Image.Image:
    """An opened, not yet decoded photo (a path or an open file); PhotoError for what is no image or
    too large.
    """
    try:
        photo = Image.open(path)  # reads the size, no pixels
    except Exception as error:  # Pillow's readers raise anything on hostile bytes
        named = isinstance(path, str | os.PathLike)  # and not an open file
        empty = named and os.path.exists(path) and os.path.getsize(path) == 0  # noqa: PTH110, PTH202
        raise PhotoError(
            path, "an empty file" if empty else _reason(error, "not an image that Pillow can read")
        ) from None
    if photo.width * photo.height > MAX_PIXELS:
        photo.close()
        raise PhotoError(path, f"more than {MAX_PIXELS // 1_000_000} million pixels")
    return photo


def _reason(error: Exception, otherwise: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (permissions)"
    return "truncated" if "truncated" in str(error) else otherwise


def load_photo(path, resize: tuple[int, int], crop: tuple[int, int] | None = None) -> np.ndarray:
    """Decode, turn upright (EXIF), crop and resize bilinearly with anti-aliasing -> (H, W, 3)
    uint8. PhotoError if it cannot be read.

    The crop is of whole pixels. Large JPEGs are decoded at the smallest of libjpeg's scales that
    still holds `resize` pixels in it."""
    height, width = resize
    with open_photo(path) as photo:
        try:
            left, top, right, bottom = crop_box(*photo.size, crop)
            shrink = min((right - left) / width, (bottom - top) / height)
            if shrink < 2 and (pixels := fast_jpeg(photo, path)) is not None:
                return fast_resize(pixels, whole(crop_box(*photo.size, crop)), resize)
            if shrink >= 2 and photo.format == "JPEG":
                photo.draft("RGB", (int(photo.width / shrink), int(photo.height / shrink)))
            photo.load()
            return fit(np.array(upright_rgb(photo)), resize, crop)
        except Exception as error:  # decoders raise anything on hostile bytes
            raise PhotoError(path, _reason(error, "broken: its pixels cannot be decoded")) from None


def fit(pixels: np.ndarray, resize: tuple[int, int], crop: tuple[int, int] | None) -> np.ndarray:
    """Crop and resize a decoded photo, (H, W, 3) uint8, as load_photo does; by PyTorch where it is
    loaded, else by Pillow.
    """
    box = whole(crop_box(pixels.shape[1], pixels.shape[0], crop))
    if sys.modules.get("torch"):
        return fast_resize(pixels, box, resize)
    photo = Image.fromarray(pixels).crop(box)
    return np.array(photo.resize(resize[::-1], Image.Resampling.BILINEAR))


def read_photo(path) -> np.ndarray:
    """Decode a whole photo, upright, (H, W, 3) uint8; PhotoError if it cannot be read."""
    with open_photo(path) as photo:
        try:
            photo.load()
            return np.array(upright_rgb(photo))
        except Exception as error:  # decoders raise anything on hostile bytes
            raise PhotoError(path, _reason(error, "broken: its pixels cannot be decoded")) from None


def whole(box) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least one wide and high."""
    left, top, right, bottom = (round(value) for value in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def fast_jpeg(photo: Image.Image, path) -> np.ndarray | None:
    """The pixels (H, W, 3) of an opened ordinary JPEG by torchvision's decoder: the same as
    Pillow's in two thirds of the time.

    None if PyTorch is not loaded (photos answered by onnxruntime alone), or the file is anything
    else: another format, grey, rotated, without its end."""
    if not sys.modules.get("torch") or photo.format != "JPEG" or photo.mode != "RGB":
        return None
    if "exif" in photo.info and photo.getexif().get(0x0112, 1) != 1:
        return None
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    with contextlib.suppress(
        RuntimeError
    ):  # broken, or torchvision was built without libjpeg: Pillow has the last word
        data = read_file(os.fspath(path))
        if data[-2:].tolist() == [0xFF, 0xD9]:
            return decode_jpeg(data, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return None


def fast_resize(pixels: np.ndarray, box, resize) -> np.ndarray:
    """The box (left, top, right, bottom) of pixels (H, W, 3) uint8 at the size `resize`: Pillow's
    filter, by PyTorch in less time.
    """
    import torch
    from torch.nn.functional import interpolate

    left, top, right, bottom = box
    images = torch.from_numpy(pixels)[top:bottom, left:right].permute(2, 0, 1)[None]
    images = images.contiguous(
        memory_format=torch.channels_last
    )  # a copy, for a way through PyTorch that takes half the time
    return (
        interpolate(images, tuple(resize), mode="bilinear", antialias=True)[0]
        .permute(1, 2, 0)
        .contiguous()
        .numpy()
    )


def upright_rgb(photo: Image.Image) -> Image.Image:
    """The photo turned as its EXIF says and in RGB: 16-bit grey scaled down, transparency laid on
    white.
    """
    if photo.mode in ("I;16", "I;16B", "I"):
        photo = Image.fromarray(
            (np.asarray(photo).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
        )
    with contextlib.suppress(
        Exception
    ):  # broken EXIF spoils no pixels: the photo stays as it is stored
        photo = ImageOps.exif_transpose(photo)
    if photo.mode in ("RGBA", "LA", "PA") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def check_photo(path) -> PhotoError | None:
    """Read a photo to its last byte, at the least cost: None, or why it cannot be used."""
    try:
        load_photo(path, (8, 8))
    except PhotoError as error:
        return error
