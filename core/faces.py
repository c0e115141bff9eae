"""Where the faces of a photo are, and what to cut out around them.

The detector is YuNet (Wu et al. 2023, https://doi.org/10.1007/s11633-023-1423-y), whose file is
here beside this one: MIT licence, 0.2 MB, run by OpenCV. Measured in docs/entrance.md."""

import hashlib
import sys
import threading
from pathlib import Path

import numpy as np

from core.errors import UserError

YUNET = Path(__file__).with_name("face_detection_yunet_2023mar.onnx")
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_HOME = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"
# Longest side in pixels: small faces are found at the first size, near ones at the second
SIZES = (640, 160)
RETRY = 320  # where neither found any
OVERLAP = 0.5  # share of the smaller box from which two boxes are the same face
THRESHOLD = 0.6
CROP_MARGIN = 0.6  # on each side of a face, in heights of it: the default of prepare.py crop
WINNERS_CROP = (320, 256)  # height, width in the 512 x 384 frame: where no face is found


class FaceDetector:
    """Find faces: `detector(photo)`, (H, W, 3) uint8 RGB -> (N, 5) left, top, width, height in
    pixels, score.

    The largest face comes first. `file` is any published version of YuNet; UserError if it cannot
    be used. One detector can serve several threads."""

    def __init__(self, file: Path | None = None, threshold: float = THRESHOLD):
        self.file, self.threshold = Path(file or YUNET), threshold
        self.of_thread = threading.local()  # a detector keeps the size of its input
        if not self.file.is_file():
            raise UserError(
                f"{self.file}: does not exist; leave it out, or fetch one from {YUNET_HOME}"
            )
        if hashlib.sha256(self.file.read_bytes()).hexdigest() != YUNET_SHA256:
            print(
                f"warning: {self.file}: not the version of YuNet that was tested ({YUNET.name})",
                file=sys.stderr,
            )
        try:
            self(np.zeros((64, 64, 3), np.uint8))
        except Exception as error:  # OpenCV raises anything on what is no network
            reason = type(error).__name__
            raise UserError(
                f"{self.file}: OpenCV cannot run it as YuNet ({reason}); see {YUNET_HOME}"
            ) from None

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        longest = max(photo.shape[:2])
        sizes = dict.fromkeys(min(size, longest) for size in SIZES)
        faces = np.concatenate([self.at(photo, size / longest) for size in sizes])
        if not len(faces) and longest > RETRY:
            faces = self.at(photo, RETRY / longest)
        return largest_first(distinct(faces))

    def at(self, photo: np.ndarray, scale: float) -> np.ndarray:
        """Faces (N, 5) found in the photo made smaller by `scale`, in pixels of the photo."""
        import cv2

        if not hasattr(self.of_thread, "yunet"):
            # OpenCV 5 warns about its own inference engine whenever a detector is made
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
            self.of_thread.yunet = cv2.FaceDetectorYN.create(
                str(self.file), "", (64, 64), self.threshold
            )
        if scale < 1:
            size = [max(1, round(side * scale)) for side in photo.shape[1::-1]]
            photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        self.of_thread.yunet.setInputSize(photo.shape[1::-1])
        found = self.of_thread.yunet.detect(np.ascontiguousarray(photo[:, :, ::-1]))[1]
        if found is None:
            return np.zeros((0, 5), np.float32)
        return np.concatenate([found[:, :4] / scale, found[:, 14:]], axis=1)


def distinct(faces: np.ndarray) -> np.ndarray:
    """Faces without those that overlap a face of higher score."""
    kept = []
    for face in faces[np.argsort(-faces[:, 4])]:
        if not kept or overlaps(face, np.stack(kept)).max() < OVERLAP:
            kept.append(face)
    return np.stack(kept) if kept else faces


def overlaps(face, faces: np.ndarray) -> np.ndarray:
    """Shares (N,) of the smaller box that one box and each of N have in common; left, top, width,
    height, ...
    """
    left_top = np.maximum(face[:2], faces[:, :2])
    right_bottom = np.minimum(face[:2] + face[2:4], faces[:, :2] + faces[:, 2:4])
    shared = np.maximum(right_bottom - left_top, 0).prod(axis=1)
    return shared / np.minimum(face[2] * face[3], faces[:, 2] * faces[:, 3])


def largest_first(faces: np.ndarray) -> np.ndarray:
    return faces[np.argsort(-faces[:, 2] * faces[:, 3])]


def best_face(faces, width: int, height: int):
    """The face with the largest area, less for being off centre: left, top, width, height."""
    faces = np.asarray(faces, float)[:, :4]
    centre = faces[:, :2] + faces[:, 2:] / 2
    away = np.hypot((centre[:, 0] - width / 2) / width, (centre[:, 1] - height / 2) / height)
    return faces[np.argmax(faces[:, 2] * faces[:, 3] * (1 - np.minimum(away, 0.9)))]


def portrait(
    face, margin: float, width: int, height: int, shape: float = 0.75
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a box around the face, `shape` times as wide as high, moved and
    if need be shrunk to lie in the photo.

    margin: what is left on each side of the face, in heights of it.
    """
    left, top, face_width, face_height = face[:4]
    box_height = max(face_height * (1 + 2 * margin), face_width * (1 + 2 * margin) / shape)
    scale = min(1.0, height / box_height, width / (box_height * shape))
    box_height, box_width = box_height * scale, box_height * shape * scale
    x = round(min(max(left + face_width / 2 - box_width / 2, 0), width - box_width))
    y = round(min(max(top + face_height / 2 - box_height / 2, 0), height - box_height))
    right = min(width, max(x + 1, round(x + box_width)))
    return x, y, right, min(height, max(y + 1, round(y + box_height)))
