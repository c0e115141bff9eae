"""Answer photos with one or several trained runs and write the submission.

    python inference.py --name swin                     one run (without --name: the latest)
    python inference.py --name swin vit5                several runs, and all folds of a run, averaged

Writes OUTPUT_DIR/NAME.csv (ImageID,ans), NAME.npz (probabilities) and NAME.json (what answered, with its validation score).
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, run
from core.errors import UserError
from core.folders import IMAGE_EXTENSIONS, data_folder, existing_folder, folder, is_drawn, safe_name
from core.processes import RANK
from core.progress import progress, say
from prediction.runs import model_files
from prediction.tta import VIEWS


def parse_args(arguments=None) -> argparse.Namespace:
    p = ArgumentParser(
        prog="inference.py",
        usage="inference.py [PHOTO...] [--FLAG VALUE]...",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        description="Answer every photo of a folder and write a submission.",
        epilog="examples:\n"
        "  SM_CHANNEL_EVAL=/data/eval python inference.py --name swin --batch_size 64\n"
        "  python inference.py --name swin5 vit5 --tta flip scales --data_dir /data/eval\n"
        "  python inference.py --checkpoint best.safetensors --data_dir photos/\n"
        "  python inference.py --name swin face.jpg --draw answers/   everybody in a photo, in words\n"
        "  python inference.py --name swin --video door.mp4           everybody who passes\n"
        "  python inference.py --name swin --export swin.onnx\n"
        "  python inference.py --checkpoint swin.onnx face.jpg        without PyTorch",
    )
    p.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="photos or folders to answer on screen, in words, instead of a submission",
    )
    g = p.add_argument_group("models")
    g.add_argument(
        "--name",
        nargs="+",
        metavar="NAME",
        help="runs to use; several, and the folds of one, are averaged (default: the latest)",
    )
    g.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        help="model files from anywhere, instead of --name",
    )
    g.add_argument("--model", help="check that the model file holds this architecture")
    g.add_argument(
        "--model_dir",
        metavar="DIR",
        help="where runs are (default: SM_CHANNEL_MODEL, SM_MODEL_DIR, else ./model)",
    )
    g = p.add_argument_group("photos")
    g.add_argument(
        "--data_dir",
        metavar="DIR",
        help="eval folder with info.csv, or any folder of images (default: SM_CHANNEL_EVAL)",
    )
    g.add_argument(
        "--on_error",
        choices=("fail", "skip", "fallback"),
        default="fail",
        help="photos that cannot be read: stop before any work, leave them out, or answer them with the average of the others",
    )
    g.add_argument(
        "--crop_faces",
        action="store_true",
        help="first crop the face out of each photo, as prepare.py crop does",
    )
    g.add_argument(
        "--face_detector",
        type=Path,
        metavar="FILE",
        help="another version of YuNet (default: the one that comes with the toolkit)",
    )
    g = p.add_argument_group("video")
    g.add_argument(
        "--video",
        metavar="SOURCE",
        help="follow everybody through a video file, a camera (its number, 0 is the first) or a stream (rtsp://...)",
    )
    g.add_argument(
        "--events",
        action="store_true",
        help="print a line when somebody passes without a mask, or with one worn incorrectly",
    )
    g.add_argument(
        "--seconds",
        type=float,
        metavar="N",
        help="stop after N seconds (default: at the end, or Ctrl-C)",
    )
    g = p.add_argument_group("answers")
    g.add_argument(
        "--output_dir",
        metavar="DIR",
        help="where submissions go (default: SM_OUTPUT_DATA_DIR, else ./output)",
    )
    g.add_argument(
        "--output_name", metavar="NAME", help="name of the submission (default: the runs' names)"
    )
    g.add_argument(
        "--tta",
        nargs="*",
        choices=VIEWS,
        default=None,
        help="average over the mirror image, shifts, sizes; none: --tta alone (default: as the model was validated)",
    )
    g.add_argument(
        "--offsets",
        choices=("yes", "no"),
        default="yes",
        help="add the class offsets tuned after training, where a model has them",
    )
    g.add_argument(
        "--draw",
        metavar="DIR",
        help="with PHOTO: write each photo with its predictions into this folder; with --video: the annotated video",
    )
    g.add_argument(
        "--export",
        metavar="FILE",
        help="write the model as ONNX, which --checkpoint takes, and stop",
    )
    g.add_argument(
        "--int8",
        metavar="DIR",
        help="with --export: quantise to 8 bits; DIR holds a hundred or more photos like those to be predicted",
    )
    g = p.add_argument_group("machine")
    g.add_argument(
        "--batch_size",
        type=int,
        default=64,
        help="photos in a step; halved until it fits in memory",
    )
    g.add_argument(
        "--devices",
        type=int,
        default=os.environ.get("SM_NUM_GPUS", "").lstrip("0") or 1,
        help="GPUs, or processes, that share the photos (default: SM_NUM_GPUS, else 1)",
    )
    g.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu", "cuda", "mps"))
    g.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="auto: fp16 on a GPU, fp32 on a CPU; bf16 is faster there, and answers up to 4 %% of photos otherwise",
    )
    g.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "last", "first"),
        help="channels in memory; auto: measured on a CPU",
    )
    g.add_argument(
        "--compile",
        default="auto",
        choices=("auto", "yes", "no"),
        help="torch.compile; auto: on a GPU, for over 200,000 photos, views counted",
    )
    g.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes that read photos (default: by the number of cores)",
    )
    args = p.parse_args(arguments)
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
        p.error("--draw: name the photos to draw on")
    if args.int8 and not args.export:
        p.error("--int8 goes with --export FILE")
    if args.video and args.photos:
        p.error("--video: takes no photos beside it")
    if args.batch_size < 1 or args.devices < 1:
        p.error("--batch_size and --devices: give a number above 0")
    return args


def without_submission(args) -> int:
    """Export, photos in words, a video: what needs one model at a time, and no PyTorch where it comes as ONNX."""
    from prediction import show, video

    name, files, _ = model_files(args)
    if args.export:
        return export(files, Path(args.export), args)
    if args.video:
        name = safe_name(
            args.output_name or (Path(args.video).stem if Path(args.video).is_file() else "camera")
        )
        output = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output") / f"{name}.csv"
        bar = partial(progress, description=name, unit="frame")
        return video.main(args, *show.model_of(files, args.tta), output, bar)
    return show.main(args, files)


def export(files: list[Path], output: Path, args) -> int:
    from prediction import onnx_file, quantise, show

    if not args.int8:
        onnx_file.export(files, output, args.tta)
        return 0
    photos = show.photos_in([args.int8])
    with tempfile.TemporaryDirectory() as temporary:
        source = files[0]
        if source.suffix != ".onnx":
            source = Path(temporary) / output.name
            onnx_file.export(files, source, args.tta)
        quantise.quantise(source, output, photos)
    return 0


# Before the heavy imports, so that --help answers at once, and what comes as ONNX needs no PyTorch
if __name__ == "__main__":
    ARGS = parse_args()
    if ARGS.photos or ARGS.export or ARGS.video:
        run(without_submission, ARGS)

import logging
import time

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

import dataset
from core import device, memory, processes
from prediction.fold_batch_norms import fold_batch_norms
from prediction.model_file import load_model, read_description
from prediction.predict import predict, views_of
from prediction.submission import (
    check_image_ids,
    few,
    write_probabilities,
    write_sidecar,
    write_submission,
)


def check_pairing(descriptions, source: Path, chosen: str) -> None:
    """A model of real photos never answers the drawn sample only because nothing else was named."""
    if is_drawn(source) and not all(description["drawn"] for description in descriptions):
        if chosen.startswith("the drawn sample"):
            raise UserError(
                "the model was trained on real photos, and the only photos at hand are the drawn sample; "
                "set SM_CHANNEL_EVAL or --data_dir to the photos to answer"
            )
        say("warning: a model trained on real photos answers drawn ones")
    elif not is_drawn(source) and any(description["drawn"] for description in descriptions):
        say("warning: this model has seen drawn faces only; its answers on photos mean nothing")


def answer(path: Path, frame, args, launcher: Fabric) -> np.ndarray:
    """Log-probabilities (N, 18) of one model file for all photos; nan rows for photos that could not be read."""
    model = load_model(path)
    description = model.description
    if args.model and args.model != description["architecture"]:
        raise UserError(
            f"--model {args.model}: {path} holds {description['architecture']}; leave --model out or name that"
        )
    if args.offsets == "no":
        model.offsets.zero_()
    fold_batch_norms(model)
    kind = device.accelerator(args.accelerator)
    device.keep_memory(kind)
    device.fuse_attention(model, kind, training=False)
    choice = launcher.broadcast(
        device.choose(model, kind, args, training=False, resize=description["resize"])
    )
    fabric = Fabric(accelerator=kind, devices=args.devices, precision=choice.fabric_precision)
    fabric.launch()
    if choice.channels_last:
        model = model.to(memory_format=torch.channels_last)
    model = model.to(fabric.device)
    views = views_of(description, args.tta)
    if compiled := device.compiles(
        args.compile, kind, len(frame) * (1 + len(views)), worth=200_000
    ):
        model.compile()
    workers = processes.readers(kind, args.workers)
    photos = dataset.Photos(
        frame["path"],
        description["resize"],
        description["crop"],
        mark_errors=args.on_error != "fail",
    )
    sampler = dataset.EpochSampler(
        len(photos), shuffle=False, rank=fabric.global_rank, ranks=fabric.world_size
    )
    ways, log_probabilities = processes.at_a_time(kind, workers), None
    while log_probabilities is None:
        loader = DataLoader(
            photos,
            -(-args.batch_size // ways),
            sampler=sampler,
            num_workers=workers,
            pin_memory=kind == "cuda",
            prefetch_factor=4 if workers else None,
        )
        start = time.perf_counter()
        loader = progress(loader, len(loader), description["architecture"], "batch")
        try:
            log_probabilities = predict(
                model, loader, len(frame), fabric, choice.channels_last, views, ways=ways
            )
        except RuntimeError as error:
            if not memory.is_out_of_memory(error) or args.batch_size == 1 or fabric.world_size > 1:
                raise
            args.batch_size //= 2
            say(f"batches do not fit in memory; going on with {args.batch_size} photos in each")
    seconds = time.perf_counter() - start
    if np.isposinf(log_probabilities).any():
        raise UserError(f"{path}: its answers are no numbers; train it again")
    score = (
        f"validation macro-F1 {description['macro_f1']:.4f}"
        if description["macro_f1"] is not None
        else "no validation score"
    )
    say(
        f"{path}: {description['architecture']}, {score}; {len(frame) / seconds:.0f} photos/s on {kind} in {choice.precision}"
        + ", compiled" * compiled
    )
    return log_probabilities


def main(args) -> int:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    name, files, scores = model_files(args)
    name = safe_name(args.output_name) if args.output_name else name
    descriptions = [read_description(path) for path in files]
    source, chosen = data_folder(args.data_dir, "eval")
    check_pairing(descriptions, source, chosen)
    frame = dataset.read_eval(existing_folder(source, chosen))
    check_image_ids(frame["ImageID"], source)
    say(f"data: {len(frame):,} photos in {source} ({chosen})")
    output = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output") / f"{name}.csv"
    if args.on_error == "fail" and RANK == 0:
        bad = dataset.check_photos(frame["path"])
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}; mend it, or use --on_error skip or fallback")

    faces = tempfile.TemporaryDirectory()
    if args.crop_faces:
        from preparation.images import cropped

        frame = frame.assign(
            path=list(map(str, cropped(frame["path"], args.face_detector, Path(faces.name))))
        )
    launcher = Fabric(accelerator=device.accelerator(args.accelerator), devices=args.devices)
    launcher.launch()
    try:
        probabilities = np.mean(
            [np.exp(answer(path, frame, args, launcher)) for path in files], axis=0
        )
    except RuntimeError as error:
        if not memory.is_out_of_memory(error):
            raise
        raise UserError(
            f"--batch_size {args.batch_size} does not fit in memory; lower it"
        ) from None
    faces.cleanup()
    if not launcher.is_global_zero:
        return 0
    unread = np.isnan(probabilities).any(axis=1)
    if unread.all():
        raise UserError(f"none of the {len(frame)} photos in {source} can be read")
    unread_names = frame["ImageID"][unread].tolist()
    if args.on_error == "skip":
        frame, probabilities = frame[~unread], probabilities[~unread]
    else:
        probabilities[unread] = probabilities[~unread].mean(axis=0)
    write_submission(
        output, pd.DataFrame({"ImageID": frame["ImageID"], "ans": probabilities.argmax(axis=1)})
    )
    write_probabilities(output.with_suffix(".npz"), frame["ImageID"], probabilities)
    if len(files) == 1:
        scores = descriptions[0]
    write_sidecar(
        output,
        {
            "kind": "model",
            "name": name,
            "macro_f1": scores.get("macro_f1"),
            "model": "+".join(
                dict.fromkeys(description["architecture"] for description in descriptions)
            ),
            "files": [str(path) for path in files],
            "photos": str(source),
            "tta": [views_of(description, args.tta) for description in descriptions],
        },
    )
    if unread_names:
        what = "left out" if args.on_error == "skip" else "answered with the average of the others"
        print(
            f"warning: {len(unread_names)} photos could not be read and were {what}: {few(unread_names)}"
        )
    print(f"wrote {output} ({len(frame):,} answers), probabilities and scores beside it")
    return 0


if __name__ == "__main__":
    run(main, ARGS)
