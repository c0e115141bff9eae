"""The frames of a video: every frame of a file, the newest frame of a camera or network stream.

A source is iterated once and gives (seconds since the start, (H, W, 3) uint8 BGR frame). What is
live survives a lost camera, and gives None for the frame while there is none."""

import os
import threading
import time
from pathlib import Path

from core.errors import UserError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints come as well as our one line
TIMEOUT = 5.0  # seconds a network stream may take to open, or to send the next frame
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before a lost camera is tried again
TICK = 0.5  # seconds without a frame after which None is given
USUAL_RATE = 25.0  # frames a second, where a file does not say


def open_source(source: str):
    """A VideoFile or a LiveSource; UserError if `source` is neither a video nor a camera that can
    be opened.
    """
    if is_live(source):
        return LiveSource(source)
    path = Path(source)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"--video: {source} {what}; give a video file, the number of a camera, or rtsp://..."
        )
    return VideoFile(path)


def is_live(source: str) -> bool:
    return source.isdecimal() or "://" in source or source.startswith("/dev/")


def capture(source):
    """OpenCV's reader of a source: the number of a camera, an address or a path."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if isinstance(source, str) and source.isdecimal():
        return cv2.VideoCapture(int(source))
    if "://" not in str(source):
        return cv2.VideoCapture(str(source))
    wait = int(TIMEOUT * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)


class VideoFile:
    """Every frame of a file. `rate` in frames a second, `frames` as the file says (0: it does
    not).
    """

    live = False

    def __init__(self, path: Path):
        import cv2

        self.reader = capture(path)
        got, self.first = self.reader.read()
        if not got:
            raise UserError(f"--video: {path} is not a video that OpenCV can read")
        rate = self.reader.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 1000 else USUAL_RATE
        self.frames = max(0, int(self.reader.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self):
        number, frame = 0, self.first
        while frame is not None:
            yield number / self.rate, frame
            number += 1
            got, frame = self.reader.read()
            frame = frame if got else None

    def close(self) -> None:
        self.reader.release()


class LiveSource:
    """The newest frame of a camera or stream: a frame that nobody took in time is dropped, never
    queued.

    `open_capture` opens the source, again after the camera was lost; `report` is called when it
    does and when it is back."""

    live, rate, frames = True, 10.0, 0

    def __init__(self, source: str, open_capture=capture, report=print):
        self.source, self.open_capture, self.report = source, open_capture, report
        self.newest, self.dropped = None, 0
        self.changed, self.stopping = threading.Condition(), threading.Event()
        self.reader = open_capture(source)
        got, frame = self.reader.read() if self.reader.isOpened() else (False, None)
        if not got:
            self.reader.release()
            raise UserError(
                f"--video: no picture from {hide_password(source)}; is it connected and free?"
            )
        self.start = time.monotonic()
        self.put(frame)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def put(self, frame) -> None:
        with self.changed:
            self.dropped += self.newest is not None
            self.newest = (time.monotonic() - self.start, frame)
            self.changed.notify()

    def read(self) -> None:
        """Runs in a thread of its own: keeps the newest frame, and opens a lost source again."""
        while not self.stopping.is_set():
            got, frame = self.reader.read()
            if got:
                self.put(frame)
            else:
                self.reopen()
        self.reader.release()

    def reopen(self) -> None:
        self.report(f"lost {hide_password(self.source)}; trying again until it is back")
        wait = FIRST_WAIT
        while not self.stopping.wait(wait):
            self.reader.release()
            self.reader = self.open_capture(self.source)
            if self.reader.isOpened():
                self.report(f"{hide_password(self.source)} is back")
                return
            wait = min(2 * wait, LONGEST_WAIT)

    def __iter__(self):
        while not self.stopping.is_set():
            with self.changed:
                if self.newest is None:
                    self.changed.wait(TICK)
                newest, self.newest = self.newest, None
            yield newest or (time.monotonic() - self.start, None)

    def close(self) -> None:
        self.stopping.set()
        self.thread.join(TIMEOUT + 1)


def hide_password(source: str) -> str:
    """A source as it may be printed: rtsp://user:secret@host -> rtsp://host."""
    scheme, separator, rest = source.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else source
