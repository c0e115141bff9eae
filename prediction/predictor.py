"""The one path from photos to probabilities: `Predictor`."""

import time
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import UserError
from core.framing import CROPPED_FILL, Framing
from core.labels import CLASS_NAMES, CLASSES
from core.progress import progress
from prediction.options import Options
from prediction.people import FaceCrops
from prediction.runs import files_of
from prediction.words import table


class Predictor:
    """Predict mask, gender and age band of photos with one or several trained models.

        predictor = Predictor("model/swin")
        predictor.predict(["a.jpg", pil_image, array])

    model: a run folder, a .safetensors or .onnx file, or a list of these. The probabilities of
        several, and of the folds or members of a run, are averaged.
    device: auto, cpu, cuda, cuda:1 or mps. precision: auto (fp16 on a GPU, else fp32), fp32, fp16
        or bf16. tta: test-time augmentations (flip, crops, scales), None as in validation.
    offsets: add the class offsets tuned after training. batch_size: halved where it does not fit
        in memory. layout: auto, last or first. compile: auto, yes or no. workers: loader workers.

    Only model files need PyTorch; ONNX files need onnxruntime. Raises UserError, in one line, for
    a model that does not exist or cannot be used, and for an option that it does not support.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        model,
        device="auto",
        precision="auto",
        tta=None,
        offsets=True,
        batch_size=64,
        layout="auto",
        compile="auto",
        workers=None,
        devices=1,
        verbose=False,
    ):
        self.files = files_of(model)
        if not self.files:
            raise UserError("no model to predict with")
        self.options = Options(precision, tta, offsets, batch_size, layout, compile, workers)
        self.verbose = verbose
        self.fabric, self.loaded = None, {}
        of_torch = [file for file in self.files if file.suffix != ".onnx"]
        if of_torch:
            from prediction.model_file import read_description
            from prediction.torch_model import start

            self.descriptions = {file: read_description(file) for file in of_torch}
            self.fabric = start(device, devices)
        else:
            self.descriptions = {}
        for file in self.files:
            if file.suffix == ".onnx":
                from prediction.onnx_file import OnnxModel

                self.loaded[file] = OnnxModel(file, self.options, device)
                self.descriptions[file] = self.loaded[file].description
        self.attribute = common_attribute(self.descriptions.values())

    @property
    def synthetic(self) -> bool:
        """Whether a model has been trained on synthetic faces, so that it knows no real ones."""
        return any(description.get("drawn") for description in self.descriptions.values())

    @property
    def known_framing(self) -> Framing | None:
        """How faces stand in the training photos of the first model; None if it does not say."""
        known = self.descriptions[self.files[0]].get("framing")
        return Framing(*known) if known else None

    def framing(self, cropped: bool = False) -> Framing:
        """The same or, where it is not known, that of portraits or of `cropped` faces."""
        return self.known_framing or (Framing(fill=CROPPED_FILL) if cropped else Framing())

    def summary(self) -> dict:
        """What is known of the models, as NAME.json beside a submission says it."""
        known = [self.descriptions[file] for file in self.files]
        tta, names = self.options.tta, [str(each.get("architecture")) for each in known]
        return {
            "macro_f1": known[0].get("macro_f1") if len(known) == 1 else None,
            "model": "+".join(dict.fromkeys(names)),
            "files": [str(file) for file in self.files],
            **({"attribute": self.attribute} if self.attribute else {}),
            "tta": [each.get("tta", []) if tta is None else tta for each in known],
        }

    @property
    def is_first(self) -> bool:
        """False on all ranks but the first of a distributed run."""
        return self.fabric is None or self.fabric.is_global_zero

    def where(self) -> str:
        """The kind of device, and how many share the photos."""
        return f"{self.fabric.device.type} x {self.fabric.world_size}" if self.fabric else "ONNX"

    def predict(self, photos, on_error="raise", crop_faces=False):
        """A pandas frame, a row a photo, indexed by the photo's position in `photos`.

        Columns: class (0..17), mask, gender and age (words), the probabilities of each attribute
        (p_mask_worn ... p_60_and_over) and of each class (p0 ... p17). Photos, errors and crops are
        those of `probabilities`; with on_error="skip" unreadable photos have no row.
        """
        probabilities = self.probabilities(photos, on_error, crop_faces)
        read = ~np.isnan(probabilities).any(axis=1)
        return table(probabilities[read], np.flatnonzero(read))

    def probabilities(self, photos, on_error="raise", crop_faces=False) -> np.ndarray:
        """(N, 18) float32, offsets included, averaged over the models.

        photos: paths, open files, PIL images or (H, W, 3) uint8 RGB arrays, mixed, of any size, in
        a list or another iterable; TypeError for anything else.
        The class is mask * 6 + gender * 3 + age.
        A photo that cannot be read raises PhotoError, a UserError with `path` and `reason`; with
        on_error="skip" its row is nan. With `crop_faces` each photo's largest, most central face is
        cut out first, framed as in the training photos: for photos that show faces otherwise.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is 'raise' or 'skip', not {on_error!r}")
        photos = checked(photos)
        if not photos:
            return np.zeros((0, CLASSES), np.float32)
        if crop_faces:
            photos = FaceCrops(photos, None, self.framing(cropped=True))
        return self.averaged(photos, on_error == "skip")

    def averaged(self, photos, mark_errors: bool, journal=None) -> np.ndarray:
        """As `probabilities`, of any sequence that PhotoReader takes; `journal` keeps what is done
        (prediction.journal.Journal).
        """
        total = np.zeros((len(photos), CLASSES), np.float32)
        for number, file in enumerate(self.files):
            rows = 0
            for block in self.blocks(number, file, photos, mark_errors, journal):
                total[rows : rows + len(block)] += block
                rows += len(block)
        return total / np.float32(len(self.files))

    def blocks(self, number: int, file: Path, photos, mark_errors: bool, journal):
        """Yield the probabilities of one model some rows at a time, first those in the journal."""
        done, measured = 0, None
        if journal:
            done, measured = journal.begin(number)
            yield from journal.read(number, done)
        if done == len(photos):
            return
        model = self.model(file, len(photos), measured)
        if journal:
            journal.measured(number, model.measured())
        begun = time.monotonic()
        name, first = self.descriptions[file].get("architecture"), self.verbose and self.is_first
        with progress(None, len(photos), name, "photo", first, done) as bar:
            for block in model.blocks(photos, mark_errors, done, bar):
                if journal:
                    journal.add(number, block)
                yield block
        if self.verbose:
            model.say_what_was_done((len(photos) - done) / (time.monotonic() - begun))

    def model(self, file: Path, count: int, measured: dict | None = None):
        """The model in `file`, for `count` photos. Several take turns if photos are many."""
        if file in self.loaded:
            return self.loaded[file]
        from prediction.torch_model import FEW, TorchModel

        model = TorchModel(file, self.options, self.fabric, count, measured)
        if len(self.files) == 1 or count < FEW:
            self.loaded[file] = model
        return model


def common_attribute(descriptions) -> str | None:
    """The one attribute that the models were trained on; None: all three.

    UserError for models of different attributes.
    """
    found = {description.get("attribute") for description in descriptions}
    if len(found) > 1:
        each = " and ".join(sorted(attribute or "all three" for attribute in found))
        raise UserError(
            f"models of {each} cannot be averaged; predict with each alone, then join the "
            "submissions with ensemble.py combine"
        )
    return found.pop()


def checked(photos) -> list:
    """The photos as a list; TypeError for what is neither path, file, PIL image nor array."""
    if isinstance(photos, str | bytes | PathLike) or hasattr(photos, "convert"):
        raise TypeError("photos: give a list, even of one photo")
    photos = list(photos)
    for number, photo in enumerate(photos):
        if isinstance(photo, np.ndarray):
            if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
                raise TypeError(
                    f"photos[{number}]: an array of {photo.dtype} {photo.shape}; "
                    "give (H, W, 3) uint8, RGB"
                )
        elif not (isinstance(photo, str | PathLike | Image.Image) or hasattr(photo, "read")):
            raise TypeError(
                f"photos[{number}]: {type(photo).__name__}; give a path, an open file (bytes: in "
                "io.BytesIO), a PIL image or a NumPy array"
            )
    return photos
