"""Predict photos with one or several trained runs and write the submission.

    python inference.py --name swin            one run (without --name: the latest)
    python inference.py --name swin vit5       several runs, and all folds of a run, averaged

Writes OUTPUT_DIR/NAME.csv (ImageID,ans), NAME-predictions.csv (in words, with probabilities),
NAME.npz (probabilities) and NAME.json (the models, with their validation score).
"""

from functools import partial
from pathlib import Path

import numpy as np

from core.cli import run
from core.errors import UserError, counted
from core.folders import data_folder, existing_folder, folder, is_drawn, safe_name
from core.progress import progress, say
from prediction.flags import parse_args
from prediction.runs import model_files

SYNTHETIC = (
    "warning: this model has seen synthetic faces only; its predictions on photos mean nothing"
)


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


def check_framing(predictor, paths: list[str], detector: Path | None) -> None:
    """Warn of photos that show faces otherwise than the training photos, where those are known."""
    from core.faces import FaceDetector
    from core.framing import framing_of

    if not predictor.known_framing:
        return
    here, trained_on = framing_of(paths, FaceDetector(detector)), predictor.framing()
    if here and not here.is_like(trained_on):
        say(
            f"warning: these photos are {here}, the training photos {trained_on}; predictions "
            "suffer from that: --crop_faces cuts the faces out"
        )


def predict_photos(args, files: list[Path]) -> int:
    """Print everybody in args.photos and draw them; 1 if a photo could not be read."""
    from core.faces import FaceDetector
    from prediction.people import PeopleReader
    from prediction.show import Pictures, photos_in, print_predictions

    predictor = build_predictor(args, files)
    if predictor.synthetic:
        say(SYNTHETIC)
    photos = photos_in(args.photos, args.recursive)
    if args.on_error == "fail":
        check_readable(photos)
    detector = FaceDetector(args.face_detector)
    reader = PeopleReader(predictor.probabilities, detector, predictor.framing(args.crop_faces))
    look = reader.look_closer if args.crop_faces else reader.look
    pictures = Pictures(Path(args.draw), photos, args.overwrite) if args.draw else None
    return print_predictions(predictor, photos, look, args.on_error, pictures)


def predict_video(args, files: list[Path]) -> int:
    from prediction import video

    source = Path(args.video)
    name = safe_name(args.output_name or (source.stem if source.is_file() else "camera"))
    output = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output") / f"{name}.csv"
    bar = partial(progress, description=name, unit="frame")
    return video.main(args, build_predictor(args, files), output, bar)


def predict_folder(args, name: str, files: list[Path], score: float | None) -> int:
    """Write the submission for the photos of a folder."""
    import dataset
    from prediction import journal, submission

    output_dir = folder(args.output_dir, "SM_OUTPUT_DATA_DIR", default="output")
    wanted = output_dir / f"{safe_name(args.output_name) if args.output_name else name}.csv"
    output = submission.output_path(wanted, args.overwrite)
    source, chosen = data_folder(args.data_dir, "eval")
    frame = dataset.read_eval(existing_folder(source, chosen), args.recursive)
    say(f"data: {counted(len(frame), 'photo')} in {source} ({chosen})")
    predictor = build_predictor(args, files)
    check_pairing(predictor, source, chosen)
    if not args.crop_faces and predictor.is_first:
        check_framing(predictor, frame["path"].tolist(), args.face_detector)
    job = journal.describe(predictor, frame, args.crop_faces, args.face_detector)
    if args.resume and (done := submission.finished(wanted, journal.digest_of(job))):
        say(f"{done} is finished already")
        return 0
    if output != wanted:
        say(f"{wanted} exists: this one is {output.name} (--overwrite replaces it)")
    kept = journal.journal_path(output)
    is_checked = args.resume and journal.exists(kept)
    if args.on_error in (None, "fail") and predictor.is_first and not is_checked:
        check_readable(frame["path"])
    with journal.Journal(kept, job, args.resume, predictor.fabric) as rows:
        probabilities = predict_rows(args, predictor, frame["path"].tolist(), rows)
        if predictor.is_first:
            about = {"kind": "model", "name": output.stem, **predictor.summary()}
            about |= {"photos": str(source), "job": journal.digest_of(job)}
            about |= {"macro_f1": score} if score is not None else {}
            write_submission(args, output, frame, probabilities, about)
    return 0


def predict_rows(args, predictor, paths: list[str], journal) -> np.ndarray:
    """Probabilities (N, 18) of photos or of the faces in them; nan where one cannot be read."""
    from prediction.people import FaceCrops

    photos = paths
    if args.crop_faces:
        photos = FaceCrops(paths, args.face_detector, predictor.framing(cropped=True))
    return predictor.averaged(photos, mark_errors=True, journal=journal)


def write_submission(args, output: Path, frame, probabilities: np.ndarray, about: dict) -> None:
    """Write the submission's files, photos that could not be read as --on_error says."""
    from prediction import submission

    unread = submission.unread(probabilities)
    if unread.all():
        raise UserError(f"{about['photos']}: holds no photo that can be read")
    unread_names = frame["ImageID"][unread].tolist()
    if args.on_error == "skip":
        frame, probabilities = frame[~unread], probabilities[~unread]
    else:
        probabilities[unread] = probabilities[~unread].mean(axis=0)
    submission.write(output, frame["ImageID"], probabilities, about)
    if unread_names:
        what = "left out" if args.on_error == "skip" else "given the mean of the others"
        say(
            f"warning: {counted(len(unread_names), 'photo')} that cannot be read, {what}: "
            f"{submission.few(unread_names)}"
        )
    say(f"wrote {output} ({counted(len(frame), 'prediction')}), words and probabilities beside it")


def main(args) -> int:
    name, files, score = model_files(args)
    if args.export:
        from prediction.export import export
        from prediction.show import photos_in

        photos = photos_in([args.int8], recursive=True) if args.int8 else None
        output = Path(args.export)
        if output.exists() and output.resolve() in map(Path.resolve, files):
            raise UserError(f"--export {output}: is the model itself; give another name")
        if output.exists() and not args.overwrite:
            raise UserError(f"--export {output}: exists; give another name, or --overwrite")
        export(files, output, args.tta, args.offsets == "yes", photos)
        return 0
    if args.video:
        return predict_video(args, files)
    if args.photos:
        return predict_photos(args, files)
    return predict_folder(args, name, files, score)


if __name__ == "__main__":
    run(main, parse_args())
