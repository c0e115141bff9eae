"""People in a video: the faces of each frame joined into tracks, and one decision for each
track.
"""

from dataclasses import dataclass, field

import numpy as np

PATIENCE = 1.0  # seconds without a face after which a track has ended
REACH = 1.0  # how far a face may be from where it was expected, in heights of a face
# Seconds after which a prediction counts half: someone may put the mask on at the door
HALF_LIFE = 2.0
# In view that make a person; less is taken for a false detection
LEAST_FRAMES, LEAST_SECONDS = 3, 0.2


@dataclass
class Track:
    """One person: when seen, where last, and the average of the log-probabilities (18,) of all
    frames.

    The newest frames count most. The average is of logarithms, so that one doubtful frame does not
    outvote the rest."""

    number: int
    first: float
    last: float
    box: np.ndarray
    frames: int = 0
    weight: float = 0.0
    total: np.ndarray = field(default_factory=lambda: np.zeros(18))
    reported: bool = False  # as an event

    def add(self, seconds: float, box, log_probabilities) -> None:
        decay = 0.5 ** ((seconds - self.last) / HALF_LIFE)
        self.total = self.total * decay + log_probabilities
        self.weight = self.weight * decay + 1
        self.last, self.box, self.frames = seconds, box, self.frames + 1

    @property
    def probabilities(self) -> np.ndarray:
        """(18,) of the classes."""
        scores = np.exp(self.total / self.weight - (self.total / self.weight).max())
        return scores / scores.sum()

    @property
    def is_person(self) -> bool:
        return self.frames >= LEAST_FRAMES and self.last - self.first >= LEAST_SECONDS


class Tracks:
    """Joins faces from frame to frame. Norfair follows the boxes: a Kalman filter for each, the
    nearest faces first.

    Only the tracks in view are kept, so memory is bounded however long it runs.
    """

    def __init__(self, rate: float):
        from norfair import Tracker
        from norfair.distances import VectorizedDistance

        patience = max(3, round(PATIENCE * rate))
        self.tracker = Tracker("iou", REACH, patience, initialization_delay=0)
        # the constructor takes slow scalar ones only
        self.tracker.distance_function = VectorizedDistance(face_distances)
        self.present: dict[int, Track] = {}
        self.count = 0

    def update(self, seconds: float, faces, log_probabilities) -> tuple[list[Track], list[Track]]:
        """The tracks of this frame's faces, and the people whose tracks have ended.

        faces: (N, >= 4) left, top, width, height; log_probabilities: (N, 18) of the same faces.
        """
        from norfair import Detection

        detections = [
            Detection(corners(face), data=(seconds, index)) for index, face in enumerate(faces)
        ]
        seen = []
        for item in self.tracker.update(detections or None):
            at, index = item.last_detection.data
            if at == seconds:
                item.hit_counter = self.tracker.hit_counter_max  # it lives for PATIENCE from now on
                track = self.present.setdefault(item.id, Track(0, seconds, seconds, faces[index]))
                track.add(seconds, faces[index], log_probabilities[index])
                if track.is_person and not track.number:  # only now, so that numbers have no gaps
                    self.count += 1
                    track.number = self.count
                seen.append(track)
        alive = {item.id for item in self.tracker.tracked_objects}
        ended = [self.present.pop(key) for key in list(self.present) if key not in alive]
        return seen, [track for track in ended if track.is_person]

    def close(self) -> list[Track]:
        """The people who are still in view, whose tracks end here."""
        left = [track for track in self.present.values() if track.is_person]
        self.present.clear()
        return left


def corners(face) -> np.ndarray:
    """(2, 2): left top and right bottom of a box."""
    left, top, width, height = face[:4]
    return np.array([[left, top], [left + width, top + height]], float)


def face_distances(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(N, M): how far apart boxes (N, 4) and (M, 4) are, and how different in size, in heights of a
    face.

    Boxes are left, top, right, bottom. Not their overlap: at ten frames a second somebody who walks
    past close to the camera has moved by more than a face."""
    seen, expected = seen.reshape(-1, 1, 2, 2), expected.reshape(1, -1, 2, 2)
    apart = np.linalg.norm(seen.mean(2) - expected.mean(2), axis=2)
    heights = [np.maximum(boxes[:, :, 1, 1] - boxes[:, :, 0, 1], 1) for boxes in (seen, expected)]
    return apart / np.minimum(*heights) + np.abs(np.log(heights[0] / heights[1]))
