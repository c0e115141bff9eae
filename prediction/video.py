"""Who passes a camera, and how each wears the mask: faces, tracks, one decision for each person.

python inference.py --name swin --video door.mp4
python inference.py --checkpoint swin.onnx --video 0 --events
"""

import contextlib
import signal
import time
from collections import Counter
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.faces import FaceDetector
from core.files import numbered
from prediction.people import PeopleReader
from prediction.recording import Recorder, TrackTable, annotate, summary
from prediction.show import MASKS, words
from prediction.stream import open_source
from prediction.tracks import Track, Tracks

THRESHOLD = 0.5  # of the detector; lower than for photos, since a person is seen in several frames
CERTAIN = 1.0  # seconds in view before an event is reported
LEAST_PROBABILITY = 1e-6  # so that one frame cannot rule out a class for good


class Watch:
    """Everybody who passes a source: `counts` by mask state, a row of `table` for each, a call of
    `events` where one is due.
    """

    def __init__(
        self,
        reader: PeopleReader,
        rate: float,
        table: TrackTable,
        recorder: Recorder | None = None,
        events=None,
    ):
        self.reader, self.tracks, self.counts = reader, Tracks(rate), Counter()
        self.table, self.recorder, self.events = table, recorder, events

    def see(self, seconds: float, frame: np.ndarray | None) -> None:
        """Take in a BGR frame, which is drawn on; None: the camera is away."""
        faces, log_probabilities = self.read(frame)
        seen, ended = self.tracks.update(seconds, faces, log_probabilities)
        self.report(track for track in seen if track.is_person and seconds - track.first >= CERTAIN)
        self.finish(ended)
        if self.recorder and frame is not None:
            annotate(frame, seen, self.counts)
            self.recorder.add(seconds, frame)

    def read(self, frame: np.ndarray | None):
        """Faces (N, 5) of a frame and their log-probabilities (N, 18)."""
        if frame is None:
            return np.zeros((0, 5)), np.zeros((0, 18))
        faces, probabilities = self.reader(np.ascontiguousarray(frame[:, :, ::-1]))
        return faces, np.log(np.maximum(probabilities, LEAST_PROBABILITY))

    def finish(self, ended: list[Track]) -> None:
        self.report(ended)
        for track in ended:
            self.table.add(track)
            self.counts[words(track.probabilities)[0][0]] += 1

    def report(self, tracks) -> None:
        """Report each person without a correctly worn mask once: as soon as it is certain, at the
        latest when they have gone.
        """
        for track in tracks:
            if self.events and not track.reported and words(track.probabilities)[0][0] != MASKS[0]:
                track.reported = True
                self.events(track)

    def close(self) -> None:
        """Those still in view have passed too."""
        self.finish(self.tracks.close())


def print_event(track: Track) -> None:
    (mask, certainty), *_ = words(track.probabilities)
    print(f"{datetime.now():%H:%M:%S}  person {track.number}: {mask} ({certainty:.0%})", flush=True)


@contextlib.contextmanager
def stopped_by_signals(finish: bool):
    """Make SIGTERM the same as Ctrl-C. With `finish` both end the block as if it were done."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if not finish:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)


def output_files(args, wanted: Path, live: bool) -> tuple[Path, Path]:
    """The CSV and the annotated video: under the next free name unless --overwrite.

    UserError if the video would replace the recording. Those of a camera have the time in their
    names.
    """

    def video_of(table: Path) -> Path:
        return Path(args.draw or table.parent) / f"{table.stem}.mp4"

    def is_free(table: Path) -> bool:
        return live or args.overwrite or not (table.exists() or video_of(table).exists())

    output = next(filter(is_free, numbered(wanted)))
    video = video_of(output)
    if not live and video.exists() and video.samefile(args.video):
        raise UserError(f"{video}: is the recording; give another --output_name or --draw DIR")
    if output != wanted:
        print(f"{wanted.stem} exists: this one is {output.stem} (--overwrite replaces it)")
    return output, video


def main(args, predictor, output: Path, progress) -> int:
    """Watch args.video and write `output`, the CSV, and the annotated video beside it.

    A file is worked through to its end or not at all. A camera runs until Ctrl-C, or for
    args.seconds; its pictures are kept only where args.draw names a folder for them."""
    if find_spec("norfair") is None:
        command = "pip install -r requirements-extras.txt"
        raise UserError(f"--video: norfair is not installed; '{command}'")
    detector = FaceDetector(args.face_detector, THRESHOLD)
    reader = PeopleReader(predictor.probabilities, detector, predictor.framing())
    source = open_source(args.video)
    stamp = f"-{datetime.now():%Y%m%d-%H%M%S}" * source.live
    output, video = output_files(args, output, source.live)
    recorder = Recorder(video, source.rate, source.live) if args.draw or not source.live else None
    table = TrackTable(output.with_name(f"{output.stem}{stamp}.csv"), source.live)
    watch = Watch(reader, source.rate, table, recorder, print_event if args.events else None)
    whole, frames, start = False, 0, time.monotonic()
    try:
        with stopped_by_signals(finish=source.live):
            for seconds, frame in progress(source, source.frames):
                if args.seconds is not None and seconds >= args.seconds:
                    break
                watch.see(seconds, frame)
                frames += frame is not None
        watch.close()
        whole = True
    finally:
        source.close()
        table.close(whole)
        if recorder:
            recorder.close(whole)
    took = time.monotonic() - start
    print(
        f"{summary(watch.counts)}; {frames:,} frames in {took:.0f} s ({frames / took:.0f} a second)"
    )
    print(
        f"wrote {table.path}"
        + (f" and {video.parent if source.live else video}" if recorder else "")
    )
    return 0
