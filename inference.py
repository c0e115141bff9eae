"""Predict photos with one or several trained runs and write the submission.

    python inference.py --name swin            one run (without --name: the latest)
    python inference.py --name swin vit5       several runs, and all folds of a run, averaged

Writes OUTPUT_DIR/NAME.csv (ImageID,ans), NAME-predictions.csv (in words, with probabilities),
NAME.npz (probabilities) and NAME.json (the models, with their validation score).
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, run
from core.errors import UserError
from core.folders import IMAGE_EXTENSIONS, data_folder, existing_folder, folder, is_drawn, safe_name
from core.progress import progress, say
from prediction.runs import model_files
from prediction.tta import VIEWS

DESCRIPTION = """\
Predict every photo of a folder and write a submission: NAME.csv, with NAME-predictions.csv (words
and probabilities), NAME.npz (probabilities) and NAME.json (what made them) beside it. With PHOTO,
print everybody in the photos instead. Every flag holds for both, and for ONNX files where it can.
"""
EXAMPLES = """\
examples:
  SM_CHANNEL_EVAL=/data/eval python inference.py --name swin --batch_size 64
  python inference.py --name swin5 vit5 --tta flip scales --data_dir /data/eval
  python inference.py --checkpoint best.safetensors --data_dir photos/
  python inference.py --name swin face.jpg --draw predicted/   everybody in a photo, in words
  python inference.py --name swin --video door.mp4             everybody who passes
  python inference.py --name swin --export swin.onnx
  python inference.py --checkpoint swin.onnx face.jpg          without PyTorch
"""
SYNTHETIC = (
    "warning: this model has seen synthetic faces only; its predictions on photos mean nothing"
)


def build_parser() -> ArgumentParser:
    p = ArgumentParser(
        prog="inference.py",
        packages=("numpy", "PIL"),
        usage="inference.py [PHOTO...] [--FLAG VALUE]...",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    # fmt: off
    p.add_argument("photos", nargs="*", metavar="PHOTO",
                   help="photos or folders to predict on screen, in words, instead of a submission")
    g = p.add_argument_group("models")
    g.add_argument("--name", nargs="+", action="extend", metavar="NAME",
                   help="runs to use; several, and the folds of one, are averaged "
                   "(default: the latest)")
    g.add_argument("--checkpoint", nargs="+", action="extend", metavar="FILE",
                   help="model files or ONNX files from anywhere, instead of --name")
    g.add_argument("--model", help="check that the model files hold this architecture")
    g.add_argument("--model_dir", metavar="DIR",
                   help="where runs are (default: SM_CHANNEL_MODEL, SM_MODEL_DIR, else ./model)")
    g = p.add_argument_group("photos")
    g.add_argument("--data_dir", metavar="DIR",
                   help="eval folder with info.csv, or any folder of images "
                   "(default: SM_CHANNEL_EVAL)")
    g.add_argument("--on_error", choices=("fail", "skip", "fallback"),
                   help="photos that cannot be read: stop before any work, leave them out, or give "
                   "them the mean of the others (default: fail; with PHOTO, name them and go on)")
    g.add_argument("--crop_faces", action="store_true",
                   help="first crop the face out of each photo, as prepare.py crop does")
    g.add_argument("--face_detector", type=Path, metavar="FILE",
                   help="another version of YuNet (default: the one that comes with the toolkit)")
    g = p.add_argument_group("video")
    g.add_argument("--video", metavar="SOURCE",
                   help="follow everybody through a video file, a camera (its number, 0 is the "
                   "first) or a stream (rtsp://...)")
    g.add_argument("--events", action="store_true",
                   help="print a line when somebody passes without a mask, or with one worn "
                   "incorrectly")
    g.add_argument("--seconds", type=float, metavar="N",
                   help="stop after N seconds (default: at the end, or Ctrl-C)")
    g = p.add_argument_group("predictions")
    g.add_argument("--output_dir", metavar="DIR",
                   help="where submissions go (default: SM_OUTPUT_DATA_DIR, else ./output)")
    g.add_argument("--output_name", metavar="NAME",
                   help="name of the submission (default: the runs' names)")
    g.add_argument("--overwrite", action="store_true",
                   help="replace a submission of that name, instead of writing NAME-2.csv")
    g.add_argument("--tta", nargs="*", action="extend", choices=VIEWS, default=None,
                   help="test-time augmentation: average over the mirror image, shifts, sizes; "
                   "none: --tta alone (default: as in validation)")
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
    g = p.add_argument_group("machine")
    g.add_argument("--batch_size", type=int, default=64,
                   help="photos in a batch; halved until it fits in memory")
    g.add_argument("--devices", type=int,
                   default=os.environ.get("SM_NUM_GPUS", "").lstrip("0") or 1,
                   help="GPUs, or processes, that share the photos (default: SM_NUM_GPUS, else 1)")
    g.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    g.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp16", "fp32"),
                   help="auto: fp16 on a GPU, fp32 on a CPU; bf16 is faster there, and changes up "
                   "to 4 %% of the predictions")
    g.add_argument("--layout", default="auto", choices=("auto", "last", "first"),
                   help="channels in memory; auto: on a CPU measured, for a few photos last")
    g.add_argument("--compile", default="auto", choices=("auto", "yes", "no"),
                   help="torch.compile; auto: on a GPU, for over 200,000 photos, test-time "
                   "augmentations counted")
    g.add_argument("--workers", type=int, metavar="N",
                   help="loader workers, processes that read photos (default: by the number of "
                   "cores)")
    # fmt: on
    return p


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
            or (Path(item).is_dir() and not (key == "name" and (runs / item).is_dir()))
        ]
        setattr(args, key, [item for item in given if item not in photos] or None)
        args.photos += photos
    if args.draw and not (args.photos or args.video):
        parser.error("--draw: name the photos to draw on")
    if args.int8 and not args.export:
        parser.error("--int8 goes with --export FILE")
    if args.video and args.photos:
        parser.error("--video: takes no photos beside it")
    if args.batch_size < 1 or args.devices < 1:
        parser.error("--batch_size and --devices: give a number above 0")
    return args


def is_photo_like_a_flag(word: str) -> bool:
    """True for a photo whose name begins with a minus sign (ids of videos do)."""
    is_image = Path(word).suffix.lower() in IMAGE_EXTENSIONS
    return word.startswith("-") and is_image and Path(word).is_file()


def build_predictor(args, files: list[Path]):
    """The Predictor of the model files under the flags."""
    from prediction import Predictor

    predictor = Predictor(
        files,
        device=args.accelerator,
        precision=args.precision,
        tta=args.tta,
        offsets=args.offsets == "yes",
        batch_size=args.batch_size,
        layout=args.layout,
        compile=args.compile,
        workers=args.workers,
        devices=args.devices,
        verbose=not (args.photos or args.video),
    )
    for file, description in predictor.descriptions.items():
        if args.model and args.model != description.get("architecture"):
            raise UserError(
                f"--model {args.model}: {file} holds {description.get('architecture')}; "
                "leave --model out or name that"
            )
    if predictor.attribute:
        say(
            f"warning: trained on the {predictor.attribute} alone, the rest of what it predicts "
            "means nothing; join submissions with ensemble.py combine"
        )
    return predictor


def check_pairing(predictor, source: Path, chosen: str) -> None:
    """Models of real photos never predict the sample set only because nothing else was named."""
    if not is_drawn(source):
        if predictor.synthetic:
            say(SYNTHETIC)
    elif not all(description.get("drawn") for description in predictor.descriptions.values()):
        if chosen not in ("--data_dir", "SM_CHANNEL_EVAL"):
            raise UserError(
                "the model was trained on real photos, and the only photos at hand are the sample "
                "set; set SM_CHANNEL_EVAL or --data_dir to the photos to predict"
            )
        say("warning: a model trained on real photos predicts synthetic faces")


def check_readable(paths) -> None:
    """UserError for photos that cannot be read, before any work."""
    import dataset

    bad = dataset.check_photos(paths)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; repair it, or use --on_error skip or fallback")


def predict_photos(args, files: list[Path]) -> int:
    """Print everybody in args.photos and draw them; 1 if a photo could not be read."""
    from core.faces import CROP_MARGIN, FaceDetector
    from prediction.people import PeopleReader
    from prediction.show import photos_in, print_predictions

    predictor = build_predictor(args, files)
    if predictor.synthetic:
        say(SYNTHETIC)
    photos = photos_in(args.photos)
    if args.on_error == "fail":
        check_readable(photos)
    detector = FaceDetector(args.face_detector)
    if args.crop_faces:
        look = PeopleReader(predictor.probabilities, detector, CROP_MARGIN).look_closer
    else:
        look = PeopleReader(predictor.probabilities, detector).look
    draw = Path(args.draw) if args.draw else None
    return print_predictions(predictor, photos, look, args.on_error, draw)


def predict_video(args, files: list[Path]) -> int:
    from prediction import video

    source = Path(args.video)
    name = safe_name(args.output_name or (source.stem if source.is_file() else "camera"))
    output = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output") / f"{name}.csv"
    bar = partial(progress, description=name, unit="frame")
    return video.main(args, build_predictor(args, files).probabilities, output, bar)


def predict_folder(args, name: str, files: list[Path], score: float | None) -> int:
    """Write the submission for the photos of a folder."""
    import dataset
    from prediction import submission

    output_dir = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output")
    name = safe_name(args.output_name) if args.output_name else name
    output = submission.output_path(output_dir / f"{name}.csv", args.overwrite)
    source, chosen = data_folder(args.data_dir, "eval")
    frame = dataset.read_eval(existing_folder(source, chosen))
    say(f"data: {len(frame):,} photos in {source} ({chosen})")
    predictor = build_predictor(args, files)
    check_pairing(predictor, source, chosen)
    if output.stem != name:
        say(f"{output_dir / name}.csv exists: this one is {output.name} (--overwrite replaces it)")
    if args.on_error in (None, "fail") and predictor.is_first:
        check_readable(frame["path"])

    with tempfile.TemporaryDirectory() as faces:
        paths = frame["path"].tolist()
        if args.crop_faces:
            from preparation.images import cropped

            paths = cropped(paths, args.face_detector, Path(faces))
        probabilities = predictor.probabilities(paths, on_error="skip")
    if not predictor.is_first:
        return 0

    unread = submission.unread(probabilities)
    if unread.all():
        raise UserError(f"none of the {len(frame)} photos in {source} can be read")
    unread_names = frame["ImageID"][unread].tolist()
    if args.on_error == "skip":
        frame, probabilities = frame[~unread], probabilities[~unread]
    else:
        probabilities[unread] = probabilities[~unread].mean(axis=0)
    about = {"kind": "model", "name": output.stem, **predictor.summary(), "photos": str(source)}
    if score is not None:
        about["macro_f1"] = score
    submission.write(output, frame["ImageID"], probabilities, about)
    if unread_names:
        what = "left out" if args.on_error == "skip" else "given the mean of the others"
        say(
            f"warning: {len(unread_names)} photos could not be read and were {what}: "
            f"{submission.few(unread_names)}"
        )
    say(f"wrote {output} ({len(frame):,} predictions), words and probabilities beside it")
    return 0


def main(args) -> int:
    name, files, score = model_files(args)
    if args.export:
        from prediction.export import export
        from prediction.show import photos_in

        photos = photos_in([args.int8]) if args.int8 else None
        export(files, Path(args.export), args.tta, args.offsets == "yes", photos)
        return 0
    if args.video:
        return predict_video(args, files)
    if args.photos:
        return predict_photos(args, files)
    return predict_folder(args, name, files, score)


if __name__ == "__main__":
    run(main, parse_args())
