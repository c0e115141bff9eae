"""What a video's job writes: boxes and decisions on the frames, the annotated video, the table of
tracks.
"""

import csv
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np

from core.errors import UserError
from prediction.show import MASKS, words
from prediction.tracks import Track

PIECE = 600.0  # seconds after which a camera's annotated video continues in another file
COLOURS = ((60, 142, 56), (0, 120, 230), (47, 47, 211))  # BGR of the mask states
GREY = (60, 60, 60)
ATTRIBUTES = ("mask", "gender", "age")
COLUMNS = ["track", "first", "last"] + [
    name for key in ATTRIBUTES for name in (key, f"{key}_probability")
]


# ---------------------------------------------------------------------------- on the frame


def annotate(frame: np.ndarray, seen: list[Track], counts: Counter) -> None:
    """Draw boxes, decisions and the counts so far on a BGR frame."""
    import cv2

    height = frame.shape[0]
    thickness = max(2, height // 240)
    for track in filter(lambda track: track.is_person, seen):
        (mask, certainty), (gender, _), (age, _) = words(track.probabilities)
        colour = COLOURS[MASKS.index(mask)]
        left, top, width, box_height = (round(float(value)) for value in track.box[:4])
        cv2.rectangle(
            frame, (left, top), (left + width, top + box_height), colour, thickness, cv2.LINE_AA
        )
        draw_label(
            frame,
            (left - thickness // 2, top),
            [f"{mask} {certainty:.0%}", f"{gender}, {age}"],
            colour,
        )
    draw_label(frame, (0, height), [summary(counts)], GREY)


def draw_label(frame: np.ndarray, corner, lines: list[str], colour) -> None:
    """Draw white text in a filled box that ends above `corner` (left, bottom), moved into the
    frame.
    """
    import cv2

    height = frame.shape[0]
    font, scale, pad = cv2.FONT_HERSHEY_DUPLEX, max(0.4, height / 1000), max(3, height // 120)
    sizes = [cv2.getTextSize(line, font, scale, 1)[0] for line in lines]
    step = max(size[1] for size in sizes) + 2 * pad
    box_width, box_height = max(size[0] for size in sizes) + 2 * pad, step * len(lines)
    left = min(max(corner[0], 0), max(0, frame.shape[1] - box_width))
    top = max(corner[1] - box_height, 0)
    bottom = (left + box_width, top + box_height)
    cv2.rectangle(frame, (left, top), bottom, colour, cv2.FILLED)
    for number, line in enumerate(lines, 1):
        at = (left + pad, top + step * number - pad)
        cv2.putText(frame, line, at, font, scale, (255, 255, 255), 1, cv2.LINE_AA)


def summary(counts: Counter) -> str:
    """Say how many passed, and how: `12 people: 9 mask worn, 1 mask worn incorrectly, 2 no
    mask`.
    """
    people = "person" if counts.total() == 1 else "people"
    return f"{counts.total():,} {people}: " + ", ".join(
        f"{counts[mask]:,} {mask}" for mask in MASKS
    )


# ---------------------------------------------------------------------------- in files


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror})") from None


class TrackTable:
    """The CSV of tracks. Of a file it appears when whole; of a camera each row is there once
    somebody has passed.
    """

    def __init__(self, path: Path, live: bool):
        self.path = path
        self.part = path if live else path.with_name(f".part-{path.name}")
        make_folder(path.parent)
        try:
            self.stream = self.part.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        self.rows = csv.writer(self.stream)
        self.rows.writerow(COLUMNS)
        self.stream.flush()

    def add(self, track: Track) -> None:
        said = [
            item
            for word, probability in words(track.probabilities)
            for item in (word, f"{probability:.4f}")
        ]
        self.rows.writerow([track.number, f"{track.first:.2f}", f"{track.last:.2f}", *said])
        self.stream.flush()

    def close(self, whole: bool) -> None:
        self.stream.close()
        if whole:
            self.part.replace(self.path)
        elif self.part != self.path:
            self.part.unlink()


class Recorder:
    """The annotated video: of a file in one piece, of a camera in pieces, each whole when the next
    begins.
    """

    def __init__(self, path: Path, rate: float, live: bool):
        self.path, self.rate, self.live = path, rate, live
        make_folder(path.parent)
        self.writer, self.began, self.written = None, 0.0, 0

    def add(self, seconds: float, frame: np.ndarray) -> None:
        """Add a frame; of a camera as often as `seconds` asks for, so that people move at their own
        speed.
        """
        if self.writer and self.live and seconds - self.began > PIECE:
            self.close(whole=True)
        if not self.writer:
            self.open(seconds, frame)
        due = (
            min(round((seconds - self.began) * self.rate) + 1, self.written + 50)
            if self.live
            else self.written + 1
        )
        for _ in range(self.written, due):
            self.writer.write(frame)
        self.written = max(self.written, due)

    def open(self, seconds: float, frame: np.ndarray) -> None:
        import cv2

        stamp = f"-{datetime.now():%Y%m%d-%H%M%S}" * self.live
        self.file = self.path.with_name(f"{self.path.stem}{stamp}{self.path.suffix}")
        self.part = self.file.with_name(f".part-{self.file.name}")
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self.writer = cv2.VideoWriter(str(self.part), code, self.rate, frame.shape[1::-1])
        if not self.writer.isOpened():
            raise UserError(f"{self.file}: cannot be written as a video")
        self.began, self.written = seconds, 0

    def close(self, whole: bool) -> None:
        if self.writer:
            self.writer.release()
            self.writer = None
            if whole:
                self.part.replace(self.file)
            else:
                self.part.unlink(missing_ok=True)
