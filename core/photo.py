"""Pixels of one photo: decoding, turning upright, cropping, resizing; always (H, W, 3) uint8.

Pillow does all of it on every machine. PyTorch and OpenCV resize in two thirds of the time, but to
pixels that differ by a level or two, so that what is seen would depend on what is installed.
"""

import contextlib
import functools
import importlib
import os
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from core.errors import UserError
from core.files import disguised

REFERENCE = (512, 384)  # height, width: the frame in which crops are given
MAX_PIXELS = 250_000_000  # of a decoded photo, unless MAX_MEGAPIXELS; telephones take 200 million
JPEG = ("JPEG", "MPO")  # MPO: two JPEGs in one file, of which the first is the photo
ORIENTATION = 0x0112

Image.MAX_IMAGE_PIXELS = None  # Pillow warns at its limit; MAX_PIXELS is an error
# Damaged EXIF: what can be read of it is used, and the pixels do not depend on it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 256 << 20  # editors' histories


class PhotoError(UserError):
    """A photo that cannot be used: `path` and `reason`."""

    def __init__(self, path, reason=None):
        if reason is None:  # made again by PyTorch out of a worker's traceback, or unpickled
            path, _, reason = str(path).strip().rpartition("PhotoError: ")[2].rpartition(": ")
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


# ---------------------------------------------------------------------------- crop and size
def crop_box(
    width: int, height: int, crop: tuple[int, int] | None
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the centred `crop`, in pixels of the photo.

    crop: height, width in the 512 x 384 reference frame; None for the whole photo.
    """
    if crop is None:
        return 0.0, 0.0, float(width), float(height)
    crop_width = width * min(1.0, crop[1] / REFERENCE[1])
    crop_height = height * min(1.0, crop[0] / REFERENCE[0])
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def whole(box) -> tuple[int, int, int, int]:
    """A box in whole pixels, at least one wide and high."""
    left, top, right, bottom = (round(value) for value in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def fit(pixels, resize: tuple[int, int], crop: tuple[int, int] | None = None) -> np.ndarray:
    """Crop and resize a decoded photo, an RGB Image or (H, W, 3) uint8, as load_photo does."""
    photo = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if crop is not None:
        photo = photo.crop(whole(crop_box(*photo.size, crop)))
    return np.array(photo.resize(resize[::-1], Image.Resampling.BILINEAR))


# ---------------------------------------------------------------------------- decoding
def load_photo(path, resize: tuple[int, int], crop: tuple[int, int] | None = None) -> np.ndarray:
    """Decode, turn upright, crop and resize (bilinear, anti-aliased) -> (H, W, 3) uint8.

    `path` may be an open stream, a PIL image or an (H, W, 3) uint8 array too. A large JPEG is
    decoded at the smallest of libjpeg's scales that still holds `resize` pixels in the crop. Raises
    PhotoError if the photo cannot be read.
    """
    decoded = path if isinstance(path, np.ndarray) else _decode(path, resize, crop)
    return fit(decoded, resize, crop)


def read_photo(path) -> np.ndarray:
    """Decode a whole photo, upright -> (H, W, 3) uint8; PhotoError if it cannot be read."""
    return np.array(_decode(path))


def upright_size(path) -> tuple[int, int]:
    """Width and height of a photo, upright, by its header; PhotoError if it cannot be opened."""
    with open_photo(path) as photo:
        return photo.size[::-1] if _orientation(photo) >= 5 else photo.size


def check_photo(path) -> PhotoError | None:
    """Read a photo to its last byte, at the least cost: None, or why it cannot be used."""
    try:
        load_photo(path, (8, 8))
    except PhotoError as error:
        return error


def _decode(path, resize=None, crop=None) -> Image.Image:
    with open_photo(path) as photo:
        try:
            return _pixels(photo, resize, crop)
        except Exception as error:  # decoders raise anything on hostile bytes
            if isinstance(error, PhotoError):
                raise PhotoError(path, error.reason) from None
            if isinstance(error, UserError):  # of a setting
                raise
            if photo.format in JPEG and "truncated" in str(error):
                with contextlib.suppress(Exception):
                    if repaired := _without_end_marker(path, resize, crop):
                        return repaired
            raise PhotoError(path, _reason(error, "broken: its pixels cannot be decoded")) from None


def _pixels(photo: Image.Image, resize, crop) -> Image.Image:
    """The photo upright in RGB, decoded small where `resize` allows."""
    if resize and photo.format in JPEG:
        on_its_side = _orientation(photo) >= 5
        width, height = photo.size[::-1] if on_its_side else photo.size
        left, top, right, bottom = crop_box(width, height, crop)
        shrink = min((right - left) / resize[1], (bottom - top) / resize[0])
        if shrink >= 2:
            photo.draft("RGB", (int(photo.width / shrink), int(photo.height / shrink)))
    _check_pixels("", photo)
    photo.load()
    return upright_rgb(photo)


def _orientation(photo: Image.Image) -> int:
    with contextlib.suppress(Exception):  # broken EXIF
        return photo.getexif().get(ORIENTATION, 1)  # Pillow looks into XMP where EXIF has none
    return 1


def upright_rgb(photo: Image.Image) -> Image.Image:
    """The photo turned as its EXIF or XMP says and in sRGB, transparency laid on white."""
    photo.load()  # what is returned must outlive the file
    if photo.mode.startswith("I") or photo.mode == "F":
        photo = _deep_grey(photo)
    if _orientation(photo) != 1:
        with contextlib.suppress(Exception):  # broken EXIF spoils no pixels
            photo = ImageOps.exif_transpose(photo)
    with contextlib.suppress(Exception):  # a broken profile, or of another mode
        photo = _in_srgb(photo)
    if photo.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in photo.info:
        photo = photo.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return photo if photo.mode == "RGB" else photo.convert("RGB")


def _in_srgb(photo: Image.Image) -> Image.Image:
    """The colours that a photo's ICC profile means (Display P3, Adobe RGB, CMYK inks...)."""
    profile = photo.info.get("icc_profile")
    if not profile or photo.mode not in ("RGB", "CMYK"):
        return photo
    transform = _to_srgb(profile, photo.mode)
    return transform.apply(photo) if transform else photo


@functools.lru_cache(maxsize=16)  # the photos of a camera share one
def _to_srgb(profile: bytes, mode: str):
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    flags = ImageCms.Flags.NOCACHE  # threads share the transform
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, srgb, mode, "RGB", flags=flags)


def _deep_grey(photo: Image.Image) -> Image.Image:
    grey = Image.fromarray(_eight_bits(np.asarray(photo)))
    grey.info = {key: value for key, value in photo.info.items() if key == "exif"}
    return grey


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Deep pixels as uint8; white is 65535, in floating point the least of 1, 255, 65535."""
    if values.dtype == np.uint8:
        return values
    whites = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (65535.0,)
    values = np.nan_to_num(values.astype(np.float64))
    white = next((white for white in whites if values.max() <= white), values.max())
    return (values / white * 255).clip(0, 255).astype(np.uint8)


FILLER = bytes(range(1, 251))


def _without_end_marker(path, resize, crop) -> Image.Image | None:
    """A JPEG that lacks its last bytes but no pixel; None if pixels are missing.

    Bytes put at its end change the photo only if the decoder still needs bytes.
    """
    data = _content(path).rstrip(b"\xff")
    ends = (b"\xff\xd9", FILLER + b"\xff\xd9")
    # whole: in a photo decoded small, what is missing of its details would not show
    photo, other = (_pixels(Image.open(BytesIO(data + end)), None, None) for end in ends)
    if photo.tobytes() != other.tobytes():
        return None
    _warn(path)
    return _pixels(Image.open(BytesIO(data + ends[0])), resize, crop)


@functools.lru_cache(maxsize=10_000)  # once for a photo
def _warn(path) -> None:
    print(f"warning: {path}: a JPEG without its end marker, no pixel is missing", file=sys.stderr)


# ---------------------------------------------------------------------------- files and formats
def open_photo(path) -> Image.Image:
    """An opened, not yet decoded photo; PhotoError for what is no image or too large.

    Of a PIL image it is a copy.
    """
    try:
        photo = path.copy() if isinstance(path, Image.Image) else _identify(path)
    except PhotoError:
        raise
    except Exception as error:  # Pillow's readers raise anything on hostile bytes
        reason = _reason(error, "not an image that Pillow can read")
        if isinstance(error, UnidentifiedImageError):
            reason = disguised(_content(path, 64)) or reason
        raise PhotoError(path, reason) from None
    # a JPEG may be decoded small, and is checked then
    if photo.format not in JPEG:
        _check_pixels(path, photo)
    return photo


def _check_pixels(path, photo: Image.Image) -> None:
    text = os.environ.get("MAX_MEGAPIXELS", "")
    if text and not text.isdecimal():
        raise UserError(f"MAX_MEGAPIXELS={text}: give a whole number, millions of pixels")
    limit = int(text) * 1_000_000 if text else MAX_PIXELS
    if photo.width * photo.height > limit:
        photo.close()
        raise PhotoError(
            path,
            f"more than {limit // 1_000_000} million pixels; MAX_MEGAPIXELS=N in the "
            "environment raises the limit",
        )


def _identify(path) -> Image.Image:
    try:
        photo = Image.open(path)  # reads the size, no pixels
        if photo.format == "TIFF":
            # Pillow 13 would map an uncompressed file into memory, in which it forgets to turn it
            photo.filename = ""
        return photo
    except UnidentifiedImageError:
        start = _content(path, 16)
        if start[4:8] == b"ftyp" and start[8:12] in (
            *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        ):
            if not _reads_heic():
                reason = "HEIC, for which pillow-heif is needed: pip install pillow-heif"
                raise PhotoError(path, reason) from None
            return Image.open(path)
        if start[:4] in (b"II*\0", b"MM\0*"):
            return _deep_tiff(path)
        raise


def _content(path, count: int = -1) -> bytes:
    """The first bytes of a file, or of a stream, which is left at its beginning."""
    if hasattr(path, "read"):
        path.seek(0)
        content = path.read(count)
        path.seek(0)
        return content
    with Path(path).open("rb") as stream:
        return stream.read(count)


@functools.cache
def _reads_heic() -> bool:
    """Teach Pillow HEIC by pillow-heif or its reading half, pi-heif; False if neither is there."""
    for package in ("pillow_heif", "pi_heif"):
        with contextlib.suppress(ImportError):
            importlib.import_module(package).register_heif_opener()
            return True
    return False


def _deep_tiff(path) -> Image.Image:
    """A TIFF that Pillow cannot read, in colours of 16 bits or in floating point, by OpenCV."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the reason is ours to tell
    pixels = cv2.imdecode(np.frombuffer(_content(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("not decoded")
    pixels = _eight_bits(pixels)
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]])
    return Image.fromarray(pixels)


def _reason(error: Exception, otherwise: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read (permissions)"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, OSError) and error.strerror:  # links in a circle, a failing disk
        return f"cannot be read ({error.strerror})"
    return "truncated" if "truncated" in str(error) else otherwise
