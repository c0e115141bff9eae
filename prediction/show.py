"""Predictions for people: words on a terminal, pictures with the prediction below."""

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.errors import UserError
from core.files import atomic
from core.folders import IMAGE_EXTENSIONS
from core.photo import PhotoError, load_photo, open_photo, upright_rgb
from prediction.onnx_file import export, onnx_model, torch_model

MASKS = ("mask worn", "mask worn wrongly", "no mask")


GENDERS = ("male", "female")


AGES = ("under 30", "30 to 59", "60 and over")


CLASSES = len(MASKS) * len(GENDERS) * len(AGES)


def photos_in(paths: list[str]) -> list[Path]:
    """The photos named, those of a named folder by name; UserError for what is not there."""
    photos = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                p
                for p in path.iterdir()
                if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith(".")
            )
            if not inside:
                raise UserError(f"{path}: holds no photos")
            photos += inside
        elif path.is_file():
            photos.append(path)
        else:
            raise UserError(f"{path}: does not exist")
    return photos


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: Korean letters take two, parts put together (macOS) none of their own."""
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in unicodedata.normalize("NFC", text)
    )


def words(probabilities: np.ndarray) -> list[tuple[str, float]]:
    """The class of the highest of 18 probabilities as mask, gender and age in words, each with the probability of that word alone."""
    cube = probabilities.reshape(len(MASKS), len(GENDERS), len(AGES))
    answer = np.unravel_index(cube.argmax(), cube.shape)
    names = (MASKS[answer[0]], GENDERS[answer[1]], AGES[answer[2]])
    return [
        (name, float(cube.take(index, axis).sum()))
        for axis, (name, index) in enumerate(zip(names, answer, strict=True))
    ]


def draw(photo: Path, answer: list[tuple[str, float]], output: Path) -> None:
    """Write the photo with its answer in a strip below to `output` (png), at most 800 pixels high, at least 240 wide."""
    with open_photo(photo) as stored:
        image = upright_rgb(stored)
    image.thumbnail((800, 800))
    larger = min(240 / image.width, 800 / image.height)
    if larger > 1:
        image = image.resize(
            (max(1, round(image.width * larger)), max(1, round(image.height * larger)))
        )
    width = max(240, image.width)
    size = max(14, width // 18)
    strip = Image.new("RGB", (width, round(size * 4.6)), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for line, (name, probability) in enumerate(answer):
        top = size * (0.4 + 1.35 * line)
        pen.rectangle(
            (0, top - size * 0.1, strip.width * probability, top + size * 1.15), fill="#cfe3f5"
        )
        pen.text((size * 0.5, top), name, fill="black", font=font)
        pen.text(
            (strip.width - size * 0.5, top),
            f"{probability:.0%}",
            fill="black",
            font=font,
            anchor="ra",
        )
    with atomic(output) as temporary:
        picture = Image.new("RGB", (width, image.height + strip.height), "white")
        picture.paste(image, ((width - image.width) // 2, 0))
        picture.paste(strip, (0, image.height))
        picture.save(temporary, "PNG")


def main(args, files: list[Path]) -> int:
    """Write args.export, or print the answer to every photo in args.photos and draw it in args.draw. 1 if a photo could not be read."""
    if args.export:
        export(files, Path(args.export), args.tta)
        return 0
    if len(files) == 1 and files[0].suffix == ".onnx":
        answer, description = onnx_model(files[0])
    elif any(path.suffix == ".onnx" for path in files):
        raise UserError("--checkpoint: give one ONNX file alone")
    else:
        answer, description = torch_model(files, args.tta)
    if description.get("drawn"):
        print("warning: this model has seen drawn faces only; its answers on photos mean nothing")
    photos = photos_in(args.photos)
    seen = photos
    if args.crop_faces:
        from preparation.images import cropped

        faces = tempfile.TemporaryDirectory()
        seen = cropped(photos, Path(args.crop_faces), Path(faces.name))
    width, unread, taken = max(columns(str(photo)) for photo in photos), 0, set()
    for photo, face in zip(photos, seen, strict=True):
        name = str(photo) + " " * (width - columns(str(photo)))
        try:
            pixels = load_photo(face, tuple(description["resize"]), description["crop"])
        except PhotoError as error:
            print(f"{name}  cannot be answered: {error.reason}")
            unread += 1
            continue
        said = words(answer(pixels[None])[0])
        print(
            f"{name}  "
            + "  ".join(
                f"{name:<{pad}} {p:4.0%}" for (name, p), pad in zip(said, (17, 6, 11), strict=True)
            )
        )
        if args.draw:
            name = next(
                name
                for n in range(1, len(photos) + 1)
                if (name := photo.stem + (f"-{n}" if n > 1 else "")) not in taken
            )
            taken.add(name)
            draw(photo, said, Path(args.draw) / f"{name}.png")
    if args.draw:
        print(f"wrote {len(taken)} picture{'s' * (len(taken) != 1)} into {args.draw}")
    return int(unread > 0)
