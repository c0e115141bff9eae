"""The flags of inference.py."""

import argparse
import os
import sys
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter
from core.folders import IMAGE_EXTENSIONS, folder
from prediction.options import CHOICES
from prediction.runs import run_files
from prediction.tta import VIEWS

DESCRIPTION = """\
Predict every photo of a folder and write a submission: NAME.csv, with NAME-predictions.csv (words
and probabilities), NAME.npz (probabilities) and NAME.json (what made them) beside it. With PHOTO,
classify everybody in these photos and print the results instead. Flags apply to both, and to ONNX
files where possible.
"""
EXAMPLES = """\
examples:
  SM_CHANNEL_EVAL=/data/eval python inference.py --name swin --batch_size 64
  python inference.py --name swin5 vit5 --tta flip scales --data_dir /data/eval
  python inference.py --checkpoint best.safetensors --data_dir photos/
  python inference.py --name swin face.jpg --draw predicted/   everybody in a photo
  python inference.py --name swin --video door.mp4             everybody who passes
  python inference.py --name swin --export swin.onnx
  python inference.py --checkpoint swin.onnx face.jpg          without PyTorch
"""


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="inference.py",
        packages=("numpy", "PIL"),
        usage="inference.py [PHOTO...] [--FLAG VALUE]...",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="photos or folders of photos: print predictions instead of writing a submission",
    )
    add_models(parser).add_argument(
        "--model", help="check that the model files hold this architecture"
    )
    for add in (add_photos, add_video, add_predictions, add_machine):
        add(parser)
    return parser


# fmt: off
def add_models(parser):
    g = parser.add_argument_group("models")
    g.add_argument("--name", nargs="+", action="extend", metavar="NAME",
                   help="runs to use; several, and the folds or members of one, are averaged "
                   "(default: the latest)")
    g.add_argument("--checkpoint", nargs="+", action="extend", metavar="FILE",
                   help="run folders, model files or ONNX files from anywhere, instead of --name")
    g.add_argument("--model_dir", metavar="DIR",
                   help="where runs are (default: SM_CHANNEL_MODEL, SM_MODEL_DIR, else ./model)")
    return g


def add_photos(parser) -> None:
    g = parser.add_argument_group("photos")
    g.add_argument("--data_dir", metavar="DIR",
                   help="eval folder with info.csv, or any folder of images "
                   "(default: SM_CHANNEL_EVAL)")
    g.add_argument("--recursive", action="store_true",
                   help="take photos in subfolders too (where no info.csv lists them)")
    g.add_argument("--on_error", choices=("fail", "skip", "fallback"),
                   help="photos that cannot be read: stop before any work, leave them out, or give "
                   "them the mean of the others (default: fail; with PHOTO, name them and go on)")
    g.add_argument("--crop_faces", action="store_true",
                   help="first crop the face out of each photo, framed as in the training photos")
    add_face_detector(g)


def add_face_detector(group) -> None:
    group.add_argument("--face_detector", type=Path, metavar="FILE",
                       help="ONNX file of another version of YuNet (default: the one included)")


def add_video(parser) -> None:
    g = parser.add_argument_group("video")
    g.add_argument("--video", metavar="SOURCE",
                   help="follow everybody through a video file, a camera (its number, 0 is the "
                   "first) or a stream (rtsp://...)")
    g.add_argument("--events", action="store_true",
                   help="print a line when somebody passes without a mask, or with one worn "
                   "incorrectly")
    g.add_argument("--seconds", type=float, metavar="N",
                   help="stop after N seconds (default: at the end, or Ctrl-C)")


def add_predictions(parser) -> None:
    g = parser.add_argument_group("predictions")
    g.add_argument("--output_dir", metavar="DIR",
                   help="where submissions go (default: SM_OUTPUT_DATA_DIR, else ./output)")
    g.add_argument("--output_name", metavar="NAME",
                   help="name of the submission (default: the runs' names)")
    g.add_argument("--overwrite", action="store_true",
                   help="replace files of that name (submission, pictures, video, export) instead "
                   "of writing NAME-2")
    g.add_argument("--resume", action="store_true",
                   help="continue the submission that the same command was writing when it was "
                   "stopped (default: start over)")
    g.add_argument("--tta", nargs="*", action="extend", choices=VIEWS, default=None,
                   help="test-time augmentations to average over: mirror image, shifts, scales; "
                   "--tta alone for none (default: as in validation)")
    g.add_argument("--offsets", choices=("yes", "no"), default="yes",
                   help="add the class offsets in the model file, which are chosen for macro-F1")
    g.add_argument("--draw", metavar="DIR",
                   help="with PHOTO: write each photo with its predictions into this folder; "
                   "with --video: the annotated video")
    g.add_argument("--export", metavar="FILE",
                   help="write the model as ONNX, which --checkpoint takes, and stop")
    g.add_argument("--int8", metavar="DIR",
                   help="with --export: quantise to 8 bits; DIR holds a hundred or more photos "
                   "like those to be predicted")


def add_machine(parser) -> None:
    g = parser.add_argument_group("machine")
    g.add_argument("--batch_size", type=int, default=64,
                   help="photos in a batch; halved until it fits in memory")
    g.add_argument("--devices", type=int,
                   default=os.environ.get("SM_NUM_GPUS", "").lstrip("0") or 1,
                   help="GPUs, or processes, that share the photos (default: SM_NUM_GPUS, else 1)")
    g.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu", "cuda", "mps"),
                   help="hardware to predict on")
    g.add_argument("--precision", default="auto", choices=CHOICES["precision"],
                   help="floating-point precision; auto: fp16 on a GPU, fp32 on a CPU, where bf16 "
                   "is faster but changes up to 4 %% of the predictions")
    g.add_argument("--layout", default="auto", choices=CHOICES["layout"],
                   help="memory format, channels last or first; auto: last on a GPU and for a few "
                   "photos, else the faster one")
    g.add_argument("--compile", default="auto", choices=CHOICES["compile"],
                   help="use torch.compile; auto: on a GPU, for more than 200,000 photos, each "
                   "test-time augmentation counted")
    g.add_argument("--workers", type=int, metavar="N",
                   help="loader workers, processes that read photos (default: by CPU cores)")

# fmt: on


def parse_args(arguments=None) -> argparse.Namespace:
    parser = build_parser()
    words = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args(
        [f"./{word}" if is_photo_like_a_flag(word) else word for word in words]
    )
    for key in ("name", "checkpoint"):  # they take all that follows, photos too
        given = getattr(args, key) or []
        runs = folder(args.model_dir, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model")
        photos = [
            item
            for item in given
            if Path(item).suffix.lower() in IMAGE_EXTENSIONS
            or (Path(item).is_dir() and not is_run(item, runs if key == "name" else None))
        ]
        setattr(args, key, [item for item in given if item not in photos] or None)
        args.photos += photos
    if args.output_name:
        args.output_name = args.output_name.removesuffix(".csv")
    if args.draw and not (args.photos or args.video):
        parser.error("--draw: name the photos to draw on")
    if args.int8 and not args.export:
        parser.error("--int8 goes with --export FILE")
    if args.video and args.photos:
        parser.error("--video: takes no photos beside it")
    if args.resume and (args.photos or args.video or args.export):
        parser.error("--resume: continues a submission, not photos on screen, video or export")
    if args.batch_size < 1 or args.devices < 1:
        parser.error("--batch_size and --devices: give a number above 0")
    return args


def is_run(folder: str, runs: Path | None) -> bool:
    """True for a folder with a model, or one of that name among `runs`."""
    named = runs is not None and not Path(folder).is_absolute() and (runs / folder).is_dir()
    return named or bool(run_files(Path(folder)))


def is_photo_like_a_flag(word: str) -> bool:
    """True for a photo whose name begins with a minus sign (ids of videos do)."""
    is_image = Path(word).suffix.lower() in IMAGE_EXTENSIONS
    return word.startswith("-") and is_image and Path(word).is_file()
