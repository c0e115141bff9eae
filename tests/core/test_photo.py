import hashlib
import io
import pickle
import struct
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from core import listing, photo
from core.errors import UserError
from core.folders import ROOT
from core.photo import PhotoError, crop_box, load_photo
from prediction import tta

SIZE = (48, 36)  # of a photo, height and width


@pytest.fixture
def smooth():
    """A smooth gradient (512, 384, 3): redder to the right, greener downwards."""
    y, x = np.mgrid[0:512, 0:384]
    return np.stack([x * 255 // 383, y * 255 // 511, np.full_like(x, 40)], -1).astype(np.uint8)


def saved(tmp_path, photo, name="photo.png", **more):
    (photo if isinstance(photo, Image.Image) else Image.fromarray(photo)).save(
        tmp_path / name, **more
    )
    return tmp_path / name


# ---------------------------------------------------------------------------- kinds of files


def flat(photo, tmp_path, name, **more):
    """The colour that a photo of one colour is read as, at a small size."""
    pixels = load_photo(saved(tmp_path, photo, name, **more), (4, 3))
    assert (pixels.shape, pixels.dtype) == ((4, 3, 3), np.uint8)
    assert np.ptp(pixels.reshape(-1, 3), axis=0).max() <= 2
    return pixels[0, 0].astype(int)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *(("a.jfif", "JPEG"), ("a.webp", "WEBP"), ("a.avif", "AVIF"), ("a.jp2", "JPEG2000")),
        *(("phone.heic", "HEIF"), ("renamed.jpg", "HEIF"), ("camera.jpg", "MPO"), ("a.gif", "GIF")),
        *(("a.bmp", "BMP"), ("a.tif", "TIFF"), ("a.tga", "TGA"), ("a.ppm", "PPM")),
    ],
)
def test_formats_of_every_source_are_read(tmp_path, monkeypatch, name, format):
    pillow_heif = pytest.importorskip("pillow_heif") if format == "HEIF" else None
    colour = Image.new("RGB", (64, 80), (200, 100, 50))
    if pillow_heif:
        pillow_heif.from_pillow(colour).save(tmp_path / name)
        read = load_photo(tmp_path / name, (4, 3))[0, 0].astype(int)
    else:
        more = {"save_all": True, "append_images": [colour]} if format == "MPO" else {}
        read = flat(colour, tmp_path, name, format=format, **more)
    assert listing.is_photo(name)
    assert read == pytest.approx([200, 100, 50], abs=6)


def test_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(photo, "_reads_heic", lambda: False)
    with pytest.raises(PhotoError, match=r"HEIC.*pip install pillow-heif"):
        load_photo(tmp_path / "phone.jpg", SIZE)


def deep(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "deep.tif"), pixels)
    return load_photo(tmp_path / "deep.tif", (4, 4))[0, 0].tolist()


@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint16, 65535), (np.float32, 1), (np.float32, 255)]
)
def test_deep_tiffs_are_scaled_to_what_a_viewer_shows(tmp_path, dtype, white):
    grey = np.full((40, 30), 0.5 * white).astype(dtype)
    grey[30:] = white
    assert deep(tmp_path, grey)[0] in (127, 128)
    blue = np.stack([grey, grey // 2, np.zeros_like(grey)], -1)  # OpenCV's order of channels
    red, green, blue = deep(tmp_path, blue.astype(dtype))
    assert red == 0 and green in (0, 63, 64) and blue in (127, 128)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiffs_are_turned_however_they_are_stored(tmp_path, dtype, compression):
    """Pillow 13 leaves some on their side that are not compressed, with mixed-up rows."""
    top, path = np.zeros((40, 30), dtype), tmp_path / "turned.tif"
    top[:20] = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(top)))
    stored.save(path, tiffinfo={0x0112: 6}, compression=compression)
    expected = np.stack([np.where(top > 0, 255, 0)] * 3, -1)
    assert np.array_equal(photo.read_photo(path), expected)


def test_much_text_in_a_png_does_not_matter(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("history", "x" * 3_000_000, zip=True)
    colour = Image.new("RGB", (30, 40), (1, 2, 3))
    assert flat(colour, tmp_path, "text.png", pnginfo=info).tolist() == [1, 2, 3]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(512, 384), (30, 20)])
def test_a_jpeg_without_its_end_marker_is_read_with_a_warning(
    tmp_path, smooth, capsys, progressive, size
):
    noisy = smooth ^ np.random.default_rng(0).integers(0, 9, smooth.shape, np.uint8)
    path = saved(tmp_path, noisy, "photo.jpg", progressive=progressive)
    whole, content = load_photo(path, size), path.read_bytes()
    for cut in (2, 1):
        path = tmp_path / f"cut{cut}.jpg"
        path.write_bytes(content[:-cut])
        np.testing.assert_array_equal(load_photo(path, size), whole)
        load_photo(path, size)
        assert capsys.readouterr().err.count("without its end marker") == 1
    for cut in (len(content) // 2, 400):
        path.write_bytes(content[:-cut])
        with pytest.raises(PhotoError, match="truncated"):
            load_photo(path, size)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>
</rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("size", [(512, 384), (64, 48)])
def test_an_orientation_in_xmp_alone_turns_the_photo_too(tmp_path, smooth, size):
    turned = Image.fromarray(smooth).transpose(Image.Transpose.ROTATE_90)
    path = saved(tmp_path, turned, "photo.jpg", quality=95, xmp=XMP)
    for crop in (None, (320, 256)):
        upright = load_photo(saved(tmp_path, smooth), size, crop)
        assert np.abs(load_photo(path, size, crop).astype(int) - upright).max() < 8


def test_pixels_do_not_depend_on_what_is_imported(tmp_path, smooth):
    """Another decoder or resizer, where one is loaded, would differ by a level or two."""
    path = saved(tmp_path, smooth, "photo.jpg")
    code = (
        "import sys; from core.photo import load_photo; import hashlib\n"
        "pixels = load_photo(sys.argv[1], (256, 192), (448, 336))\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)\n"
        "print(hashlib.sha256(pixels).hexdigest())"
    )
    alone = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(load_photo(path, (256, 192), (448, 336))).hexdigest()
    assert alone.stdout.strip() == here


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_photo_upright(tmp_path, smooth, orientation):
    upright = Image.fromarray(smooth)
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, stored, "photo.jpg", exif=exif, quality=95)
    for crop in (None, (320, 256)):
        difference = load_photo(path, SIZE, crop).astype(int) - load_photo(
            saved(tmp_path, smooth), SIZE, crop
        )
        assert np.abs(difference).max() < 8


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (10, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 127), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, mode, colour, shown):
    pixels = load_photo(saved(tmp_path, Image.new(mode, (30, 40), colour)), (8, 6))
    assert (pixels.shape, pixels.dtype) == ((8, 6, 3), np.uint8)
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [list(shown)]


def test_a_palette_and_its_transparent_colour(tmp_path):
    photo = Image.new("P", (30, 40), 1)
    photo.putpalette([0, 0, 0, 200, 100, 50])
    assert load_photo(saved(tmp_path, photo), (2, 2))[0, 0].tolist() == [200, 100, 50]
    assert load_photo(saved(tmp_path, photo, transparency=1), (2, 2))[0, 0].tolist() == [
        255,
        255,
        255,
    ]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.full((40, 30), 128 * 257, np.uint16)
    grey[:20] = 65535
    pixels = load_photo(saved(tmp_path, Image.fromarray(grey)), (4, 4))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[3, 0].tolist() == [128] * 3


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (400, 400), (0, 255, 255, 0)), "photo.jpg")
    for size in ((4, 4), (400, 400)):  # the small one is decoded at an eighth
        assert load_photo(path, size)[0, 0] == pytest.approx([255, 0, 0], abs=6)


def icc_profile(gamma: float) -> bytes:
    """An ICC profile of sRGB's primaries with another gamma."""

    def fixed(*numbers):
        return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))

    white = (0.9642, 1, 0.8249)
    primaries = {b"r": (0.436, 0.2225, 0.0139), b"g": (0.3851, 0.7169, 0.0971)}
    primaries[b"b"] = (0.1431, 0.0606, 0.7141)
    tags = {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in primaries.items()}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(*white)
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags |= {name + b"TRC": curve for name in primaries}
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide" + bytes(79)
    body, table = b"", struct.pack(">I", len(tags))
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(body)
    header = struct.pack(">I", size) + b"lcms\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp"
    return (header + bytes(28) + fixed(*white)).ljust(128, b"\0") + table + body


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_colours_are_those_that_the_profile_means(tmp_path, mode):
    """A grey of half the light is 188 in sRGB, 128 where pixels are proportional to light."""
    grey = Image.new("RGB", (40, 30), (128, 128, 128))
    assert flat(grey, tmp_path, "a.png", icc_profile=icc_profile(1.0)) == pytest.approx(
        [188] * 3, abs=2
    )
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    unusable = {"RGB": b"broken", "CMYK": icc_profile(1.0)}[mode]
    for profile in (unusable, srgb):
        path = saved(tmp_path, grey.convert(mode), "b.jpg", icc_profile=profile)
        assert load_photo(path, (3, 3))[1, 1] == pytest.approx([128] * 3, abs=2)


def test_one_pixel_fills_the_photo(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)))
    for crop in (None, (320, 256)):
        assert np.unique(load_photo(path, SIZE, crop).reshape(-1, 3), axis=0).tolist() == [
            [1, 2, 3]
        ]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_truncated_photo_is_an_error(tmp_path, smooth, name):
    path = saved(
        tmp_path, smooth ^ np.random.default_rng(0).integers(0, 9, smooth.shape, np.uint8), name
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PhotoError, match="truncated"):
        load_photo(path, SIZE)
    assert photo.check_photo(path).path == path


def test_what_is_no_photo_says_why(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("a letter, not a photo")
    (tmp_path / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.jpg").write_text("\n<!DOCTYPE html><html>not found</html>")
    (tmp_path / "video.jpg").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
    (tmp_path / "zeros.jpg").write_bytes(bytes(999))
    (tmp_path / "denied.jpg").write_text('<?xml version="1.0"?><Error>AccessDenied</Error>')
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    reasons = {
        "empty.jpg": "an empty file",
        "lfs.jpg": "git lfs pull",
        "page.jpg": "a web page",
        "video.jpg": "a video",
        "zeros.jpg": "zero bytes",
        "denied.jpg": "a server's message",
        "circle.jpg": "symbolic links",
        "text.jpg": "not an image",
        "gone.jpg": "does not exist",
        ".": "a folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(PhotoError, match=reason) as error:
            load_photo(tmp_path / name, SIZE)
        assert str(tmp_path / name) in str(error.value)
    assert photo.check_photo(saved(tmp_path, Image.new("L", (9, 9)))) is None


def test_too_many_pixels_are_refused_before_decoding(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (40, 30)))
    monkeypatch.setattr(photo, "MAX_PIXELS", 1199)
    with pytest.raises(PhotoError, match="million pixels"):
        load_photo(path, SIZE)
    large = saved(tmp_path, Image.new("RGB", (200, 160)), "telephone.jpg")
    assert load_photo(large, (9, 9)).shape == (9, 9, 3)  # decoded at a fraction
    with pytest.raises(PhotoError, match="million pixels"):
        load_photo(large, (160, 200))
    monkeypatch.setenv("MAX_MEGAPIXELS", "1")
    assert load_photo(large, (160, 200)).shape == (160, 200, 3)
    monkeypatch.setenv("MAX_MEGAPIXELS", "many")
    for some in (path, large):
        with pytest.raises(UserError, match="MAX_MEGAPIXELS=many"):
            load_photo(some, SIZE)
    monkeypatch.delenv("MAX_MEGAPIXELS")
    monkeypatch.setattr(photo, "MAX_PIXELS", 1200)
    assert load_photo(path, SIZE).shape == (*SIZE, 3)


def test_the_limit_on_pixels_holds_in_threads(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    path = saved(tmp_path, Image.new("L", (40, 30)))
    monkeypatch.setattr(photo, "MAX_PIXELS", 1199)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(photo.check_photo, [path] * 400))
    assert list(warnings.filters) == before


WHOLE = {}
for kind in ("JPEG", "PNG"):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 18, 3), np.uint8)).save(
        stream, kind, exif=exif
    )
    WHOLE[kind] = stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WHOLE)
@given(
    changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=12),
    end=st.integers(0, 3000),
)
def test_a_damaged_photo_is_read_or_a_photo_error(tmp_path_factory, kind, changes, end):
    content = bytearray(WHOLE[kind])
    for position, value in changes:
        content[position] = value
    path = tmp_path_factory.getbasetemp() / f"damaged-{kind}"
    path.write_bytes(content[:end])
    try:
        assert load_photo(path, (8, 6)).shape == (8, 6, 3)
    except PhotoError as error:
        assert "\n" not in str(error)


def test_a_broken_header_is_a_photo_error(tmp_path):
    content = bytearray(WHOLE["PNG"])
    content[content.index(b"\r\n\x1a\n") + 7] = 5  # the length of the first chunk
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(PhotoError):
        load_photo(tmp_path / "photo", (8, 6))


def test_broken_exif_spoils_no_pixels(tmp_path):
    content = bytearray(WHOLE["JPEG"])
    (tmp_path / "whole").write_bytes(content)
    content[content.index(b"Exif") + 17] = 1  # the count of an entry
    (tmp_path / "photo").write_bytes(content)
    with Image.open(tmp_path / "whole") as whole:
        stored = np.asarray(whole.convert("RGB"))
    np.testing.assert_array_equal(load_photo(tmp_path / "photo", stored.shape[:2]), stored)


def test_broken_exif_is_read_without_a_warning(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 4
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16)).save(path, exif=exif)
    code = "import sys; from core.photo import read_photo; print(read_photo(sys.argv[1]).shape)"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(16, 16, 3)\n", "")


def test_a_photo_error_is_pickled_whole():
    error = pickle.loads(pickle.dumps(PhotoError("a.jpg", "truncated")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "truncated", "a.jpg: truncated")


# ---------------------------------------------------------------------------- crop and size


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (384, 512, (64, 96, 320, 416)),
        (240, 320, (40, 60, 200, 260)),
        (768, 512, (128, 96, 640, 416)),
    ],
)
def test_the_crop_is_scaled_from_the_reference_frame(width, height, box):
    assert crop_box(width, height, (320, 256)) == pytest.approx(box)


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.none() | st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_a_crop_is_centred_and_inside(width, height, crop):
    left, top, right, bottom = crop_box(width, height, crop)
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)


def test_the_crop_is_what_is_seen(tmp_path, smooth):
    inner = load_photo(saved(tmp_path, smooth), (320, 256), (320, 256))
    assert np.array_equal(inner, smooth[96:416, 64:320])
    small = load_photo(
        saved(tmp_path, Image.fromarray(smooth).resize((240, 320))), SIZE, (320, 256)
    )
    assert (
        np.abs(small.astype(int) - load_photo(saved(tmp_path, smooth), SIZE, (320, 256))).max() <= 4
    )


@pytest.mark.parametrize("crop", [None, (320, 256)])
def test_decoding_small_is_close_to_decoding_whole(tmp_path, smooth, crop, monkeypatch):
    path = saved(tmp_path, Image.fromarray(smooth).resize((1536, 2048)), "photo.jpg", quality=95)
    asked = []
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.draft", lambda photo, mode, size: asked.append(size)
    )
    whole = load_photo(path, (96, 72), crop).astype(int)
    monkeypatch.undo()
    assert asked, "a large photo asks for a smaller decoding"
    assert np.abs(load_photo(path, (96, 72), crop) - whole).max() <= 3
    with Image.open(path) as photo:
        photo.draft("RGB", asked[0])
        left, top, right, bottom = crop_box(*photo.size, crop)
        assert photo.width < 1536
        assert (right - left, bottom - top) >= (72, 96)


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(load_photo(saved(tmp_path, stripes), (50, 50)).astype(int) - 127).max() <= 5


# ---------------------------------------------------------------------------- views


def test_the_first_view_is_the_batch_itself():
    images = torch.rand(2, 3, 8, 6)
    seen = list(tta.views(images, ("flip", "crops", "scales")))
    assert seen[0] is images
    assert len(seen) == 8
    assert all(view.shape == images.shape for view in seen)
    assert all(not torch.allclose(view, images) for view in seen[1:])
    assert len(list(tta.views(images, ()))) == 1


def test_flip_is_the_mirror_image():
    images = torch.rand(2, 3, 8, 6)
    assert torch.equal(list(tta.views(images, ["flip"]))[1], images[..., torch.arange(5, -1, -1)])


def test_crops_shift_by_4_percent_and_scales_zoom():
    ramp = torch.arange(100.0).expand(1, 3, 100, 100)
    left, right, up, _ = [
        view[0, 0, 50, 50].item() for view in list(tta.views(ramp, ["crops"]))[1:]
    ]
    assert (left, right, up) == pytest.approx((46, 54, 50), abs=1e-3)
    larger, smaller = [view[0, 0, 50] for view in list(tta.views(ramp, ["scales"]))[1:]]
    assert (larger[60] - larger[40]).item() == pytest.approx(20 * 0.92, abs=1e-3)
    assert (smaller[60] - smaller[40]).item() == pytest.approx(20 * 1.08, abs=1e-3)
