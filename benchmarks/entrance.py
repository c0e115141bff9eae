"""The entrance, measured: faces found in photos, and people who walk past a camera.

    python benchmarks/entrance.py faces /data/train
    python benchmarks/entrance.py walk /data/eval /data/eval_answers.csv --checkpoint swin.onnx

    python benchmarks/entrance.py int8 /data/eval /data/eval_answers.csv --checkpoint \
        swin.safetensors --photos /data/train

`int8` exports a model as ONNX and with 8 bits, and compares the scores and the speed of the three.
`walk` makes a video of photos that slide through the picture one after the other, runs inference.py
--video on it, and counts how many people were named once, and with the right mask state. All take
one core.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for library in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(library, "1")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.faces import FaceDetector  # noqa: E402
from core.listing import photos_in  # noqa: E402
from core.photo import read_photo  # noqa: E402
from prediction.show import MASKS  # noqa: E402

STATES = {"incorrect_mask": "incorrect", "normal": "bare"}  # by stem; all others are worn masks
RATE, SIZE, HEIGHT = 25, (640, 480), 300  # frames a second, of the frame, of the photos in it
PAUSE = 8  # frames without anybody between two people


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    c = commands.add_parser("faces", help="faces found in the photos of a folder")
    c.add_argument("folder", type=Path, metavar="DIR")
    c.add_argument("--limit", type=int, help="number of photos, chosen at random (default: all)")
    c.set_defaults(command=faces)
    c = commands.add_parser("walk", help="people who walk past a camera, one after the other")
    c.add_argument("eval", type=Path, metavar="DIR", help="eval folder")
    c.add_argument("labels", type=Path, metavar="FILE", help="csv of ImageID and ans")
    c.add_argument("--checkpoint", required=True, metavar="FILE", help="model file or ONNX")
    c.add_argument("--people", type=int, default=40)
    c.add_argument("--pixels", type=float, default=6.0, help="how far somebody moves per frame")
    c.add_argument("--seed", type=int, default=0, help="seed for the choice of people")
    c.set_defaults(command=walk)
    c = commands.add_parser("int8", help="what quantising costs and gains")
    c.add_argument("eval", type=Path, metavar="DIR", help="eval folder")
    c.add_argument("labels", type=Path, metavar="FILE", help="csv of ImageID and ans")
    c.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="model file")
    c.add_argument("--photos", type=Path, required=True, metavar="DIR", help="calibration photos")
    c.set_defaults(command=int8)
    return p.parse_args(arguments)


def faces(args) -> int:
    """Print the share of photos with a face, by mask state, and the time for a photo."""
    cv2.setNumThreads(1)
    paths = sorted(
        p for p in args.folder.rglob("*.*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    paths = [path for path in paths if not path.name.startswith(".")]
    if args.limit:
        paths = np.random.default_rng(0).permutation(paths)[: args.limit]
    detector, rows = FaceDetector(), []
    for path in paths:
        photo = read_photo(path)
        start = time.process_time()
        count = len(detector(photo))
        rows.append((STATES.get(path.stem, "worn"), count, time.process_time() - start))
    table = pd.DataFrame(rows, columns=["photo", "faces", "seconds"])
    for state, group in table.groupby("photo"):
        found = (group["faces"] > 0).sum()
        print(
            f"{state:10} {found:6,} of {len(group):,} photos have a face ({found / len(group):.1%})"
        )
    milliseconds = table["seconds"].median() * 1000
    print(
        f"more than one face: {(table['faces'] > 1).sum():,}; "
        f"{milliseconds:.1f} ms of a core a photo"
    )
    return 0


def walk(args) -> int:
    """Print how many people were named once, how many tracks have the right mask state, and the
    frames a second.
    """
    people = pd.read_csv(args.labels).sample(args.people, random_state=args.seed)
    photos = [args.eval / "images" / name for name in people["ImageID"]]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        spans = make_video(folder / "walk.mp4", photos, args.pixels)
        flags = ["--video", folder / "walk.mp4", "--checkpoint", args.checkpoint]
        flags += ["--output_dir", folder]
        command = [sys.executable, ROOT / "inference.py", *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        frames = round(spans[-1][1] * RATE)
        print(done.stdout.splitlines()[0])
        print(f"{1000 * (used.ru_utime + used.ru_stime) / frames:.0f} ms of a core a frame")
        tracks = pd.read_csv(folder / "walk.csv")
    middle = (tracks["first"] + tracks["last"]) / 2
    once = right = 0
    for (start, end), ans in zip(spans, people["ans"], strict=True):
        own = tracks[(middle >= start) & (middle < end)]
        once += len(own) == 1
        right += (own["mask"] == MASKS[ans // 6]).sum()
    print(
        f"people {len(people)}, named once {once}; tracks {len(tracks)}, right mask state {right} "
        f"({right / len(tracks):.1%})"
    )
    return 0


def int8(args) -> int:
    """Print macro-F1, accuracy of the mask state and time of a model, its ONNX file and int8."""
    import torch

    from core.metrics import score
    from prediction import Predictor
    from prediction.export import export

    torch.set_num_threads(1)
    truth = pd.read_csv(args.labels)
    photos = [read_photo(args.eval / "images" / name) for name in truth["ImageID"]]
    with tempfile.TemporaryDirectory() as folder:
        files = [args.checkpoint, Path(folder) / "a.onnx", Path(folder) / "a-int8.onnx"]
        export(files[:1], files[1])
        export(files[1:2], files[2], photos=photos_in(args.photos, recursive=True))
        print("model        macro-F1  mask accuracy  ms of a core a photo")
        expected = None
        for name, file in zip(("PyTorch", "ONNX", "ONNX, int8"), files, strict=True):
            predictor = Predictor(file)
            predictor.probabilities(photos[:64])
            start = time.process_time()
            ans = predictor.probabilities(photos).argmax(1)
            milliseconds = 1000 * (time.process_time() - start) / len(photos)
            scores = score(truth["ans"].to_numpy(), ans)
            expected = ans if expected is None else expected
            print(
                f"{name:11}  {scores['macro_f1']:.4f}    {scores['mask']:.4f}         "
                f"{milliseconds:5.1f}    same class as PyTorch {(ans == expected).mean():.1%}"
            )
    return 0


def make_video(path: Path, photos: list[Path], pixels: float) -> list[tuple[float, float]]:
    """Write a video of photos that slide through, by turns from the left and from the right; when
    each is in view, in seconds.
    """
    random = np.random.default_rng(0)
    width, height = SIZE
    background = np.full((height, width, 3), (150, 160, 165), np.uint8)
    background[height * 3 // 4 :] = (100, 110, 115)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, SIZE)
    spans, frames = [], 0
    for number, photo in enumerate(photos):
        person = read_photo(photo)[:, :, ::-1]
        person = cv2.resize(person, (person.shape[1] * HEIGHT // person.shape[0], HEIGHT))
        start = frames
        for step, x in enumerate(np.arange(-person.shape[1], width, pixels)):
            x = round(x if number % 2 == 0 else width - person.shape[1] - x)
            left, right = max(x, 0), min(x + person.shape[1], width)
            top = round(90 + 6 * np.sin(step / 4))
            frame = background.copy()
            if left < right:
                frame[top : top + HEIGHT, left:right] = person[:, left - x : right - x]
            noise = random.integers(-6, 7, (height, width, 1), np.int16)
            writer.write((frame + noise).clip(0, 255).astype(np.uint8))
            frames += 1
        for _ in range(PAUSE):
            writer.write(background)
            frames += 1
        spans.append((start / RATE, frames / RATE))
    writer.release()
    return spans


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.command, ARGS)
