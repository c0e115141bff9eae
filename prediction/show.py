"""Predictions for people: words on a terminal, pictures with the prediction below."""

import itertools
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.errors import UserError
from core.faces import FaceDetector
from core.files import atomic
from core.folders import IMAGE_EXTENSIONS
from core.photo import PhotoError, load_photo, read_photo
from prediction.onnx_file import onnx_model, torch_model
from prediction.people import PeopleReader

MASKS = ("mask worn", "mask worn incorrectly", "no mask")


GENDERS = ("male", "female")


AGES = ("under 30", "30 to 59", "60 and over")


COLOURS = ("#2e7d32", "#b85600", "#c62828")  # of the mask states


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
    """How many columns of a terminal `text` takes: Korean letters take two, parts put together
    (macOS) none of their own.
    """
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in unicodedata.normalize("NFC", text)
    )


def words(probabilities: np.ndarray) -> list[tuple[str, float]]:
    """The class of the highest of 18 probabilities as mask, gender and age in words, each with the
    probability of that word alone.
    """
    cube = probabilities.reshape(len(MASKS), len(GENDERS), len(AGES))
    answer = np.unravel_index(cube.argmax(), cube.shape)
    names = (MASKS[answer[0]], GENDERS[answer[1]], AGES[answer[2]])
    return [
        (name, float(cube.take(index, axis).sum()))
        for axis, (name, index) in enumerate(zip(names, answer, strict=True))
    ]


def draw(photo: Path, people: list[tuple], output: Path) -> None:
    """Write the photo with its predictions in a strip below to `output` (png), at most 800 pixels
    high, at least 240 wide.

    people: (face or None, words) of each person. Several people get numbered boxes, and a line each
    instead of a bar for each attribute."""
    image = Image.fromarray(read_photo(photo))
    before = image.width
    image.thumbnail((800, 800))
    larger = min(240 / image.width, 800 / image.height)
    if larger > 1:
        size = (max(1, round(image.width * larger)), max(1, round(image.height * larger)))
        image = image.resize(size)
    if len(people) > 1:
        draw_boxes(image, people, image.width / before)
        strip = lines_strip(people, max(240, image.width))
    else:
        strip = bars_strip(people[0][1], max(240, image.width))
    with atomic(output) as temporary:
        picture = Image.new("RGB", (strip.width, image.height + strip.height), "white")
        picture.paste(image, ((strip.width - image.width) // 2, 0))
        picture.paste(strip, (0, image.height))
        picture.save(temporary, "PNG")


def bars_strip(said: list[tuple[str, float]], width: int) -> Image.Image:
    """A line for each attribute of one person, its bar as long as its probability."""
    size = max(14, width // 18)
    strip = Image.new("RGB", (width, round(size * 4.6)), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for line, (name, probability) in enumerate(said):
        top = size * (0.4 + 1.35 * line)
        bar = (0, top - size * 0.1, width * probability, top + size * 1.15)
        pen.rectangle(bar, fill="#cfe3f5")
        pen.text((size * 0.5, top), name, fill="black", font=font)
        right = (width - size * 0.5, top)
        pen.text(right, f"{probability:.0%}", fill="black", font=font, anchor="ra")
    return strip


def draw_boxes(image: Image.Image, people: list[tuple], scale: float) -> None:
    """Draw a numbered box around each face, in the colour of the mask state."""
    size = max(12, image.width // 40)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for number, (face, said) in enumerate(people, 1):
        left, top, width, height = (float(value) * scale for value in face[:4])
        colour = COLOURS[MASKS.index(said[0][0])]
        pen.rectangle(
            (left, top, left + width, top + height), outline=colour, width=max(2, size // 6)
        )
        tag = (left, top, left + size * 0.6 * (len(str(number)) + 1), top + size * 1.3)
        pen.rectangle(tag, fill=colour)
        pen.text((left + size * 0.3, top + size * 0.05), str(number), fill="white", font=font)


def lines_strip(people: list[tuple], width: int) -> Image.Image:
    """A line for each person: number, mask, gender and age, each with its probability."""
    size = max(9, min(20, width // 30))
    strip = Image.new("RGB", (width, round(size * (1.5 * len(people) + 0.8))), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for line, (_, said) in enumerate(people):
        top = size * (0.5 + 1.5 * line)
        colour = COLOURS[MASKS.index(said[0][0])]
        pen.text((size * 0.5, top), str(line + 1), fill=colour, font=font)
        for (name, probability), column in zip(said, (0.07, 0.52, 0.74), strict=True):
            fill = colour if name in MASKS else "black"
            pen.text((width * column, top), f"{name} {probability:.0%}", fill=fill, font=font)
    return strip


def model_of(files: list[Path], tta=None):
    """The model in one ONNX file, or the average of model files, and its description."""
    if len(files) == 1 and files[0].suffix == ".onnx":
        return onnx_model(files[0])
    if any(path.suffix == ".onnx" for path in files):
        raise UserError("--checkpoint: give one ONNX file alone")
    return torch_model(files, tta)


def people_in(path: Path, reader: PeopleReader) -> list[tuple]:
    """(face or None, words) of everybody in a photo; None where the photo was predicted as a whole.
    PhotoError if unreadable.
    """
    faces, probabilities = reader.photo(
        read_photo(path), load_photo(path, reader.resize, reader.crop)
    )
    people = []
    for face, p in zip(faces, probabilities, strict=True):
        people.append((None if np.isnan(face[0]) else face, words(p)))
    return people


def main(args, files: list[Path]) -> int:
    """Print the prediction of everybody in args.photos and draw it in args.draw. 1 if a photo could
    not be read.
    """
    model, description = model_of(files, args.tta)
    if description.get("drawn"):
        print(
            "warning: this model has seen synthetic faces only; its predictions on photos mean nothing"
        )
    photos = photos_in(args.photos)
    reader = PeopleReader(model, description, FaceDetector(args.face_detector))
    width, unread, taken = max(columns(str(photo)) for photo in photos), 0, set()
    for photo in photos:
        name = str(photo) + " " * (width - columns(str(photo)))
        try:
            people = people_in(photo, reader)
        except PhotoError as error:
            print(f"{name}  cannot be predicted: {error.reason}")
            unread += 1
            continue
        for number, (_, said) in enumerate(people, 1):
            which = f"  {number}" * (len(people) > 1)
            parts = [
                f"{word:<{pad}} {p:4.0%}" for (word, p), pad in zip(said, (21, 6, 11), strict=True)
            ]
            print("  ".join([name + which, *parts]))
        if args.draw:
            output = free_name(photo.stem, taken)
            draw(photo, people, Path(args.draw) / f"{output}.png")
    if args.draw:
        print(f"wrote {len(taken)} picture{'s' * (len(taken) != 1)} into {args.draw}")
    return int(unread > 0)


def free_name(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem-2` and so on where it is taken; taken from now on."""
    numbers = itertools.count(2)
    name = stem
    while name in taken:
        name = f"{stem}-{next(numbers)}"
    taken.add(name)
    return name
