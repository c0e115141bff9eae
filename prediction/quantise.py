"""A smaller, faster ONNX file: weights and activations of 8 bits, by onnxruntime's static
quantisation.
"""

import random
import tempfile
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.files import atomic
from core.photo import load_photo
from prediction.onnx_file import open_session

# That set the ranges of activations; with 50 the predictions differ, with 200 they do not
PHOTOS = 100
BATCH = 10


def quantise(source: Path, output: Path, photos: list[Path]) -> None:
    """Write an int8 copy of the exported file `source`, its activations' ranges taken from some of
    `photos`.

    Per channel: with one range for a whole tensor MobileNetV2 keeps nothing of its macro-F1
    (docs/entrance.md)."""
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        command = "pip install -r requirements-extras.txt"
        raise UserError(f"--int8: {error.name} is not installed; '{command}'") from None
    model, description = open_session(source)
    chosen = random.Random(0).sample(photos, min(PHOTOS, len(photos)))
    crop, resize = description["crop"], tuple(description["resize"])
    pixels = np.stack([load_photo(path, resize, crop) for path in chosen])
    with tempfile.TemporaryDirectory() as folder, atomic(output) as temporary:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            temporary,
            Batches(pixels),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    before, after = (
        session.run(None, {"photos": pixels})[0].argmax(1)
        for session in (model, open_session(output)[0])
    )
    size = output.stat().st_size / 1e6
    print(
        f"wrote {output} ({size:.1f} MB, int8); {(before == after).mean():.0%} of the "
        f"{len(pixels)} photos get the same class"
    )


class Batches:
    """What onnxruntime takes calibration photos from: its CalibrationDataReader."""

    def __init__(self, pixels: np.ndarray):
        starts = range(0, len(pixels), BATCH)
        self.batches = iter([{"photos": pixels[start : start + BATCH]} for start in starts])

    def get_next(self):
        return next(self.batches, None)
