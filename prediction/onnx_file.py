"""Prediction with an exported ONNX file, by onnxruntime, without PyTorch."""

import json
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.processes import cores
from core.progress import say
from prediction.memory_limit import Halving
from prediction.photos import PhotoReader, blocks


class OnnxModel:
    """The model in an exported ONNX file; UserError if it is none, or cannot follow `options`.

    Precision, test-time augmentations and offsets are part of the file since its export.
    """

    def __init__(self, path: Path, options, device: str):
        refuse_what_is_fixed(path, options)
        self.path, self.options = path, options
        self.session, self.description = open_session(path, providers(path, device))
        self.forward = Halving(self.run, np.concatenate, does_not_fit)

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"photos": pixels})[0]

    def measured(self) -> dict:
        return {}

    def blocks(self, photos, mark_errors: bool, first: int, bar):
        """Yield (n, 18) of the next n photos from the row `first` on."""
        size, description = self.options.batch_size, self.description
        reader = PhotoReader(
            photos, description["resize"], description["crop"], mark_errors, cores()
        )
        for start, end in blocks(first - first % size, len(photos), size):
            done = []
            for pixels, rows in reader.batches(size, start, end):
                probabilities = self.forward(pixels)
                if not np.isfinite(probabilities).all():
                    raise UserError(
                        f"{self.path}: its predictions are not numbers; export it again"
                    )
                probabilities[rows < 0] = np.nan
                done.append(probabilities)
                bar.update(len(rows))
            yield np.concatenate(done)[max(0, first - start) :]

    def say_what_was_done(self, speed: float) -> None:
        say(f"{self.path}: {self.description['architecture']}; {speed:.0f} photos/s by onnxruntime")


def refuse_what_is_fixed(path: Path, options) -> None:
    """UserError for an option that only a model file supports."""
    fixed = {
        "--precision": options.precision not in ("auto", "fp32"),
        "--tta": options.tta is not None,
        "--offsets": not options.offsets,
        "--layout": options.layout != "auto",
        "--compile": options.compile == "yes",
    }
    for flag, asked in fixed.items():
        if asked:
            raise UserError(
                f"{flag}: part of {path} since its export; leave it out, or use the model file"
            )


def providers(path: Path, device: str) -> list[str]:
    """onnxruntime's providers for a device: auto, cpu, gpu, cuda, mps."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{path}: needs onnxruntime; install it with 'pip install onnxruntime'"
        ) from None
    available = onnxruntime.get_available_providers()
    name = device.partition(":")[0]
    wanted = {
        "auto": available,
        "cpu": ["CPUExecutionProvider"],
        "mps": ["CoreMLExecutionProvider"],
    }.get(name, ["CUDAExecutionProvider"])
    chosen = [provider for provider in wanted if provider in available]
    if not chosen:
        raise UserError(
            f"--accelerator {device}: this onnxruntime has {', '.join(available)} only; install "
            "onnxruntime-gpu, or use --accelerator cpu"
        )
    return chosen


def open_session(path: Path, providers: tuple | list = ("CPUExecutionProvider",)):
    """An onnxruntime session and the checked metadata; UserError if the file is none of ours."""
    import onnxruntime

    if not path.is_file():
        raise UserError(f"{path}: does not exist")
    try:
        options = onnxruntime.SessionOptions()
        # Threads that wait sleep: spinning takes the cores of whatever else runs (twice the time)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(path, options, providers=list(providers))
        description = json.loads(session.get_modelmeta().custom_metadata_map["mask_classifier"])
        resize, crop = description["resize"], description["crop"]
        sized = [resize] if crop is None else [resize, crop]
        good = all(
            len(pair) == 2 and all(type(v) is int and 0 < v <= 4096 for v in pair) for pair in sized
        )
    except Exception as error:  # onnxruntime has an exception for each kind of broken file
        raise UserError(
            f"{path}: not an ONNX file that inference.py --export wrote ({type(error).__name__})"
        ) from None
    if not good:
        raise UserError(f"{path}: its metadata 'resize' and 'crop' cannot be used")
    return session, description


def does_not_fit(error: BaseException) -> bool:
    """True if onnxruntime ran out of memory: only its message says so."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "failed to allocate" in text or "bad_alloc" in text
