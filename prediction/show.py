"""Predictions for people: words on a terminal, pictures with the prediction below."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import listing
from core.errors import UserError
from core.files import atomic, numbered
from core.photo import PhotoError, check_photo, read_photo
from core.processes import cores
from prediction.words import MASKS, words

AT_ONCE = 4  # batches between lines on the terminal
COLOURS = ("#2e7d32", "#b85600", "#c62828")  # of the mask states


def photos_in(paths: list[str], recursive: bool = False) -> list[Path]:
    """The photos named, those of a named folder by name; UserError for what is not there."""
    photos = []
    for path in map(Path, paths):
        if path.is_dir():
            photos += listing.photos_in(path, recursive)
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


def print_predictions(predictor, photos, look, on_error=None, pictures=None) -> int:
    """Print the prediction of everybody in `photos` and draw it into `pictures` (a Pictures).

    look: photo -> (faces, what the model is given for each), as PeopleReader.look. Of photos that
    cannot be read the reason is printed, with on_error "fallback" beside the mean of the others.
    Returns 1 if there were any and `on_error` is None.
    """
    width = max(columns(str(photo)) for photo in photos)
    unread = 0
    at_once = len(photos) if on_error == "fallback" else AT_ONCE * predictor.options.batch_size
    for start in range(0, len(photos), at_once):
        some = photos[start : start + at_once]
        results = predict_everybody(predictor, some, look)
        if not predictor.is_first:
            continue
        read = [result for result in results if not isinstance(result, PhotoError)]
        for photo, result in zip(some, results, strict=True):
            name = str(photo) + " " * (width - columns(str(photo)))
            note = ""
            if isinstance(result, PhotoError):
                unread, note = unread + 1, f"  cannot be predicted: {result.reason}"
                if on_error != "fallback" or not read:
                    print(name + note)
                    continue
                mean = np.concatenate([probabilities for _, probabilities in read]).mean(axis=0)
                result, note = (np.full((1, 5), np.nan), mean[None]), f"{note}; mean of the others"
            people = in_words(*result)
            for number, (_, said) in enumerate(people, 1):
                which = f"  {number}" * (len(people) > 1)
                print("  ".join([name + which, *in_columns(said)]) + note)
            if pictures and not note:
                draw(photo, people, pictures.path_for(photo))
    if pictures and predictor.is_first:
        print(pictures)
    return int(unread > 0 and on_error is None)


def predict_everybody(predictor, photos, look) -> list:
    """For each photo (faces, probabilities (N, 18)), or the PhotoError that says why it has none;
    everybody in all photos goes through the model together.
    """

    def look_or_error(photo):
        try:
            return look(photo)
        except PhotoError as error:
            return error

    with ThreadPoolExecutor(cores()) as pool:
        looked = list(pool.map(look_or_error, photos))
    seen = [[] if isinstance(one, PhotoError) else one[1] for one in looked]
    everybody = predictor.probabilities([item for items in seen for item in items], "skip")
    ends = np.cumsum([len(items) for items in seen])
    results = []
    for photo, one, probabilities in zip(
        photos, looked, np.split(everybody, ends[:-1]), strict=True
    ):
        if isinstance(one, PhotoError):
            results.append(one)
        elif np.isnan(probabilities).any():
            results.append(check_photo(one[1][0]) or PhotoError(photo, "cannot be read"))
        else:
            results.append((one[0], probabilities))
    return results


def in_words(faces, probabilities) -> list[tuple]:
    """(face or None, words) of each person; None where the photo was predicted as a whole."""
    return [
        (None if np.isnan(face[0]) else face, words(p))
        for face, p in zip(faces, probabilities, strict=True)
    ]


def in_columns(said: list[tuple[str, float]]) -> list[str]:
    return [f"{word:<{pad}} {p:4.0%}" for (word, p), pad in zip(said, (21, 6, 11), strict=True)]


class Pictures:
    """Names for the pictures of `photos` in a folder: none twice, and none of a file that exists.

    With `overwrite` files are replaced, but never one of the photos.
    """

    def __init__(self, folder: Path, photos: list[Path], overwrite: bool = False):
        self.folder, self.overwrite = folder, overwrite
        self.photos, self.drawn = {photo.resolve() for photo in photos}, set()
        self.renamed = []

    def path_for(self, photo: Path) -> Path:
        wanted = self.folder / f"{photo.stem}.png"
        path = next(name for name in numbered(wanted) if self.is_free(name))
        self.drawn.add(path)
        if wanted not in self.drawn:
            self.renamed.append(path)
        return path

    def is_free(self, path: Path) -> bool:
        replaceable = self.overwrite and path.resolve() not in self.photos
        return path not in self.drawn and (replaceable or not path.exists())

    def __str__(self):
        count = len(self.drawn)
        said = f"wrote {count} picture{'s' * (count != 1)} into {self.folder}"
        if self.renamed:
            said += f"; files of these names exist: the first is {self.renamed[0].name}"
        return said
