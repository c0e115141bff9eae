"""How much predictions depend on how a photo shows the face: its shape, how much of the height the
face fills, how many pixels it has.

    python benchmarks/framing.py /data/train --checkpoint swin.safetensors --people 160

Takes a train folder of people that the model was not trained on. Widens its photos at the sides or
all around, or scales them down, and prints the share of photos with the right class / the right
mask state, gender and age band.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dataset  # noqa: E402
from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.faces import FaceDetector  # noqa: E402
from core.framing import framing_of  # noqa: E402
from core.labels import decode  # noqa: E402
from core.photo import read_photo  # noqa: E402
from prediction import Predictor  # noqa: E402
from prediction.people import PeopleReader  # noqa: E402

# width / height, the former height as a share of the new one
WIDENED = ((3 / 4, 1), (1, 1), (4 / 3, 1), (3 / 4, 0.8), (3 / 4, 0.65), (3 / 4, 0.5))
PIXELS = (195, 120, 80, 60, 40, 25)  # height of the face


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("folder", type=Path, metavar="DIR", help="train folder")
    p.add_argument("--checkpoint", nargs="+", required=True, metavar="FILE", help="models")
    p.add_argument("--people", type=int, default=160, help="how many, chosen at random")
    p.add_argument("--seed", type=int, default=0, help="seed for the choice of people")
    return p.parse_args(arguments)


def widened(photo: np.ndarray, shape: float, scale: float) -> np.ndarray:
    """The photo in the middle of a larger one, whose rest continues its edges, blurred."""
    height, width, _ = photo.shape
    high = round(height / scale)
    wide = max(width, round(high * shape))
    top, left = (high - height) // 2, (wide - width) // 2
    around = ((top, high - height - top), (left, wide - width - left), (0, 0))
    result = cv2.GaussianBlur(np.pad(photo, around, mode="edge"), (0, 0), 3)
    result[top : top + height, left : left + width] = photo
    return result


def scaled(photo: np.ndarray, share: float) -> np.ndarray:
    size = [max(1, round(side * share)) for side in photo.shape[1::-1]]
    return np.array(Image.fromarray(photo).resize(size, Image.Resampling.BOX))


def largest(seen: list[np.ndarray]) -> np.ndarray:
    """Of what was cut out of a photo; another face would be a false one."""
    return max(seen, key=lambda part: part.shape[0])


def right(labels: np.ndarray, probabilities: np.ndarray) -> str:
    """Shares of right classes, mask states, genders and age bands, as text."""
    ans = probabilities.argmax(axis=1)
    pairs = [(labels, ans), *zip(decode(labels), decode(ans), strict=True)]
    return " / ".join(f"{np.mean(a == b):.3f}" for a, b in pairs)


def main(args) -> int:
    frame = dataset.read_train(args.folder)
    people = np.random.default_rng(args.seed).permutation(frame["person"].unique())[: args.people]
    frame = frame[frame["person"].isin(people)]
    labels, photos = frame["label"].to_numpy(), [read_photo(path) for path in frame["path"]]
    predictor, own = Predictor(args.checkpoint), framing_of(frame["path"].tolist())
    if own is None:
        raise UserError(f"{args.folder}: the detector finds few faces in these photos")
    reader = PeopleReader(predictor.probabilities, FaceDetector(), predictor.framing())
    print(f"{len(photos):,} photos of {len(people):,} people, {own}; of training: {reader.framing}")
    print("shares of photos: right class / mask state / gender / age band\n")
    print(f"shape  faces fill  {'whole':31}{'PHOTO':31}crop_faces")
    for shape, scale in WIDENED:
        large = [widened(photo, shape, scale) for photo in photos]
        found = [largest(reader.look(photo)[1]) for photo in large]
        ways = predictor.probabilities(large), predictor.probabilities(found)
        ways = (*ways, predictor.probabilities(large, crop_faces=True))
        shown = "  ".join(f"{right(labels, each):29}" for each in ways)
        print(f"{shape:5.2f}  {own.fill * scale:10.0%}  {shown}", flush=True)
    print("\npixels of a face")
    for pixels in PIXELS:
        share = pixels / (own.fill * np.median([photo.shape[0] for photo in photos]))
        small = [scaled(photo, min(1.0, share)) for photo in photos]
        print(f"{pixels:16}  {right(labels, predictor.probabilities(small))}", flush=True)
    return 0


if __name__ == "__main__":
    run(main, parse_args())
