"""Videos and cameras: each person once, with one decision; the newest frame of what is live; files
that are whole or absent.
"""

import csv
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace

import cv2
import numpy as np
import pytest

from core.errors import UserError
from core.folders import ROOT
from core.framing import Framing
from core.photo import fit
from prediction import stream, video
from prediction.recording import Recorder, TrackTable, summary
from prediction.stream import LiveSource, hide_password, open_source
from prediction.tracks import Tracks, face_distances
from preparation.sample import draw_photo, look_of, make_people

RATE = 10
STATES = ("mask worn", "mask worn incorrectly", "no mask")


def log_probabilities(*states):
    """(N, 18) of people in these mask states, all male and 30 to 59."""
    rows = np.full((len(states), 18), 0.01)
    for row, state in zip(rows, states, strict=True):
        row[state * 6 + 1] = 0.83
    return np.log(rows)


def face(x, y=100.0, size=80.0):
    return np.array([x, y, 0.75 * size, size, 0.9])


NONE = np.zeros((0, 5)), np.zeros((0, 18))


def run(tracks, frames, start=0.0):
    """Feed frames of (faces, states); the tracks that ended, in order."""
    ended = []
    for number, (faces, states) in enumerate(frames):
        at = start + number / RATE
        ended += tracks.update(
            at, *((np.stack(faces), log_probabilities(*states)) if faces else NONE)
        )[1]
    return ended


# ---------------------------------------------------------------------------- tracks


def test_a_person_is_one_track_through_missed_frames_and_a_doubtful_one():
    frames = [([face(20 * n)], [2 if n == 7 else 0]) for n in range(20)]
    frames[10] = frames[11] = ([], [])
    frames += [([], [])] * 15
    (track,) = run(Tracks(RATE), frames)
    assert (track.number, track.first, track.last, track.frames) == (1, 0.0, 1.9, 18)
    assert track.probabilities.argmax() == 1 and abs(track.probabilities.sum() - 1) < 1e-9


def test_two_people_who_cross_stay_two():
    frames = []
    for n in range(30):
        faces = [face(20 * n, 60), face(600 - 20 * n, 260)]
        frames.append((faces, [0, 2]) if n % 2 else (faces[::-1], [2, 0]))
    ended = run(Tracks(RATE), frames + [([], [])] * 15)
    assert sorted(track.probabilities.argmax() for track in ended) == [1, 13]
    assert sorted(track.number for track in ended) == [1, 2]


def test_somebody_who_comes_back_later_is_another_track():
    walk = [([face(20 * n)], [0]) for n in range(10)]
    ended = run(Tracks(RATE), walk + [([], [])] * 15 + walk + [([], [])] * 15)
    assert [track.number for track in ended] == [1, 2]


def test_a_flicker_is_nobody():
    assert (
        run(Tracks(RATE), [([face(50)], [0]), ([], []), ([face(50)], [0])] + [([], [])] * 15) == []
    )


def test_putting_the_mask_on_at_the_door_counts():
    frames = [([face(100 + n)], [2 if n < 40 else 0]) for n in range(100)]
    tracks = Tracks(RATE)
    run(tracks, frames)
    (track,) = tracks.close()
    assert track.probabilities.argmax() == 1 and track.probabilities[1] > 0.5


def test_distances_are_in_heights_of_a_face():
    boxes = np.array([[0, 0, 60, 80.0], [80, 0, 140, 80.0], [0, 0, 120, 160.0]])
    np.testing.assert_allclose(face_distances(boxes[:1], boxes[:2]), [[0, 1]])
    assert face_distances(boxes[:1], boxes[2:])[0, 0] > np.log(2)


# ---------------------------------------------------------------------------- sources


class Camera:
    """Stands in for OpenCV's reader: numbered frames, one each time `step` is released; ends after
    `frames`.
    """

    def __init__(self, frames, opened=True, step=None):
        self.frames, self.opened, self.step = iter(frames), opened, step

    def isOpened(self):
        return self.opened

    def read(self):
        if self.step:
            self.step.acquire(timeout=5)
        number = next(self.frames, None)
        return number is not None, None if number is None else np.full((4, 6, 3), number, np.uint8)

    def release(self):
        pass


def test_of_a_live_source_the_newest_frame_is_taken_and_the_others_dropped():
    step = threading.Semaphore(1)
    source = LiveSource("0", lambda _: Camera(range(100), step=step), report=lambda _: None)
    frames = iter(source)
    assert next(frames)[1][0, 0, 0] == 0
    for _ in range(20):
        step.release()
    while source.newest is None or source.newest[1][0, 0, 0] < 20:
        pass
    assert next(frames)[1][0, 0, 0] == 20 and source.dropped == 19
    source.stopping.set()
    step.release()
    source.close()


def test_a_camera_that_drops_out_is_opened_again(monkeypatch):
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(stream, "TICK", 0.01)
    opened, told = [], []

    def open_capture(source):
        opened.append(source)
        return {1: Camera([1]), 2: Camera([], opened=False), 3: Camera([7] * 10**6)}[len(opened)]

    source = LiveSource("rtsp://me:secret@door", open_capture, told.append)
    seen = []
    for _, frame in source:
        seen.append(None if frame is None else int(frame[0, 0, 0]))
        if seen[-1] == 7:
            break
    source.close()
    assert seen[0] == 1 and len(opened) == 3
    assert told == ["lost rtsp://door; trying again until it is back", "rtsp://door is back"]


@pytest.mark.parametrize(
    "name", ["gone.mp4", ".", "text.mp4", "empty.mp4", "9", "rtsp://127.0.0.1:1/x"]
)
def test_what_is_no_video_and_no_camera_is_told_in_one_line(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError, match="--video: ") as told:
        open_source(name)
    assert len(str(told.value).splitlines()) == 1 and capfd.readouterr() == ("", "")


def test_passwords_of_streams_are_not_printed():
    assert hide_password("rtsp://user:p@ss@10.0.0.2/live") == "rtsp://10.0.0.2/live"
    assert hide_password("0") == "0"


# ---------------------------------------------------------------------------- what is written


def test_the_video_of_a_camera_plays_at_the_speed_of_life_and_comes_in_pieces(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("prediction.recording.PIECE", 2.0)
    folder = tmp_path / "new" / "folder"
    recorder = Recorder(folder / "door.mp4", RATE, live=True)
    frame = np.zeros((48, 64, 3), np.uint8)
    for seconds in (0.0, 0.1, 0.11, 1.0, 2.5, 3.0):
        recorder.add(seconds, frame)
        if seconds == 1.0:
            (first,) = folder.iterdir()
            assert first.name.startswith(".part-")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) >= 1 and not names[-1].startswith(".part")
    reader = cv2.VideoCapture(str(folder / names[-1]))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 11 and reader.get(cv2.CAP_PROP_FPS) == RATE
    recorder.close(whole=False)
    assert not list(folder.glob(".part*"))


def test_the_table_of_a_camera_has_each_row_at_once_and_that_of_a_file_when_whole(tmp_path):
    tracks = Tracks(RATE)
    run(tracks, [([face(20 * n)], [2]) for n in range(10)])
    (track,) = tracks.close()
    live, file = TrackTable(tmp_path / "live.csv", True), TrackTable(tmp_path / "file.csv", False)
    live.add(track)
    file.add(track)
    (row,) = csv.DictReader((tmp_path / "live.csv").open())
    assert (row["track"], row["first"], row["last"], row["mask"]) == (
        "1",
        "0.00",
        "0.90",
        "no mask",
    )
    assert (row["gender"], row["age"], row["mask_probability"]) == ("male", "30 to 59", "0.8800")
    assert not (tmp_path / "file.csv").exists()
    file.close(whole=True)
    live.close(whole=True)
    assert (tmp_path / "file.csv").read_text() == (tmp_path / "live.csv").read_text()


# ---------------------------------------------------------------------------- the whole job


class Looks:
    """A model that knows the mask state by the colour in the lower right corner of the photo it is
    given.
    """

    framing = Framing

    def probabilities(self, photos):
        corners = [fit(photo, (32, 24), None)[-3:, -3:] for photo in photos]
        states = [corner.mean((0, 1)).argmax() for corner in corners]
        return np.exp(log_probabilities(*states))


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A video of six people of the sample set who walk through the picture one after the other, and
    their mask states.
    """
    path = tmp_path_factory.mktemp("video") / "door.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (480, 320))
    states = []
    for number, person in enumerate(make_people(6, 3, 0)):
        photo = draw_photo(look_of(person), 2, person.seed, (256, 192))
        states.append(number % 3)
        photo[:, :, 2 - number % 3] = (
            photo[:, :, 2 - number % 3] // 4 + 190
        )  # BGR: red, green, blue
        for x in range(-180, 481, 24):
            frame = np.full((320, 480, 3), 120, np.uint8)
            left, right = max(x, 0), min(x + 192, 480)
            frame[30:286, left:right] = photo[:, left - x : right - x]
            writer.write(frame)
    writer.release()
    return path, states


def watch(source, output, **flags):
    args = Namespace(video=str(source), draw=None, events=True, seconds=None, face_detector=None)
    args.overwrite = False
    for name, value in flags.items():
        setattr(args, name, value)
    return video.main(args, Looks(), output, lambda frames, total: frames)


def test_everybody_in_a_video_is_named_once_with_the_right_mask_state(walk, tmp_path, capsys):
    path, states = walk
    assert watch(path, tmp_path / "door.csv") == 0
    rows = list(csv.DictReader((tmp_path / "door.csv").open()))
    assert [row["mask"] for row in rows] == [STATES[state] for state in states]
    assert [row["track"] for row in rows] == [str(number) for number in range(1, 7)]
    said = capsys.readouterr().out
    assert "6 people: 2 mask worn, 2 mask worn incorrectly, 2 no mask" in said
    assert said.count("  person ") == 4  # events
    reader = cv2.VideoCapture(str(tmp_path / "door.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == cv2.VideoCapture(str(path)).get(
        cv2.CAP_PROP_FRAME_COUNT
    )
    assert not list(tmp_path.glob(".part*"))


def test_an_interrupted_file_leaves_what_was_there(walk, tmp_path):
    (tmp_path / "door.csv").write_text("before")

    def stop(frames, total):
        for number, item in enumerate(frames):
            if number == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    args = Namespace(video=str(walk[0]), draw=None, events=False, seconds=None, face_detector=None)
    args.overwrite = True
    with pytest.raises(KeyboardInterrupt):
        video.main(args, Looks(), tmp_path / "door.csv", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["door.csv"]
    assert (tmp_path / "door.csv").read_text() == "before"


def test_neither_a_recording_nor_earlier_files_are_replaced(walk, tmp_path, capsys):
    recording = tmp_path / "door.mp4"
    recording.write_bytes(walk[0].read_bytes())
    for _ in range(2):
        watch(recording, tmp_path / "door.csv", seconds=0.5)
    assert "door exists: this one is door-3" in capsys.readouterr().out
    names = ["door-2.csv", "door-2.mp4", "door-3.csv", "door-3.mp4", "door.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with pytest.raises(UserError, match="is the recording"):
        watch(recording, tmp_path / "door.csv", overwrite=True)
    watch(recording, tmp_path / "door-2.csv", overwrite=True, seconds=0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert recording.read_bytes() == walk[0].read_bytes()


def test_a_camera_that_is_stopped_keeps_everything_and_stores_no_pictures(
    walk, tmp_path, monkeypatch, capsys
):
    class Paced(stream.VideoFile):
        live = True

        def __iter__(self):
            for number, item in enumerate(super().__iter__()):
                if number == 40:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield item

    monkeypatch.setattr(video, "open_source", lambda name: Paced(walk[0]))
    assert watch("0", tmp_path / "camera.csv") == 0
    (table,) = tmp_path.iterdir()
    assert table.name.startswith("camera-") and len(list(csv.DictReader(table.open()))) == 2
    assert "2 people: " in capsys.readouterr().out


def test_memory_does_not_grow_with_the_number_of_people():
    tracks = Tracks(RATE)
    for person in range(50):
        run(tracks, [([face(20 * n)], [0]) for n in range(5)] + [([], [])] * 12, start=2.0 * person)
    assert tracks.count == 50 and not tracks.present and not tracks.tracker.tracked_objects


def test_one_person_is_a_person():
    from collections import Counter

    assert summary(Counter({"no mask": 1})).startswith("1 person: 0 mask worn, 0 mask worn inc")


@pytest.mark.parametrize("flags", [["--video", "gone.mp4"], ["--video", "9"]])
def test_the_command_ends_with_one_line_and_status_2(tmp_path, flags):
    command = [sys.executable, ROOT / "inference.py", *flags, "--model_dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
