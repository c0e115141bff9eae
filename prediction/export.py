"""ONNX files for places without PyTorch."""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

from core.errors import UserError
from core.files import atomic
from prediction.model_file import load_model
from prediction.onnx_file import open_session
from prediction.predict import views_of
from prediction.predictor import common_attribute
from prediction.quantise import quantise
from prediction.tta import views as views_of_batch

COPIED = ("resize", "crop", "class_names", "framing")  # of the first model's description


def export(files: list[Path], output: Path, tta=None, offsets=True, photos=None) -> None:
    """Write the average of model files as ONNX; with `photos`, quantised to 8 bits by them."""
    if not photos:
        difference = export_onnx(files, output, tta, offsets)
        print(
            f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB); its predictions differ from "
            f"PyTorch's by at most {difference:.1e}"
        )
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = files[0]
        if source.suffix != ".onnx":
            source = Path(temporary) / output.name
            export_onnx(files, source, tta, offsets)
        quantise(source, output, photos)


def joined(files: list[Path], tta=None, offsets=True):
    """One module that averages the models' probabilities, and its description.

    (N, H, W, 3) uint8 -> (N, 18), averaged over the test-time augmentations too. UserError if the
    models take photos of different size.
    """
    models = [load_model(path) for path in files]
    descriptions = [model.description for model in models]
    first, attribute = descriptions[0], common_attribute(descriptions)
    for path, model, description in zip(files, models, descriptions, strict=True):
        if any(description[key] != first[key] for key in ("resize", "crop")):
            raise UserError(
                f"{path}: takes photos of another size or crop than {files[0]}; export one of them"
            )
        if not offsets:
            model.offsets.zero_()

    class Average(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.models = torch.nn.ModuleList(models)

        def forward(self, photos):
            images = photos.permute(0, 3, 1, 2).float()
            return torch.stack([self.one(model, images) for model in self.models]).mean(0)

        @staticmethod
        def one(model, images):
            views = views_of_batch(images, views_of(model.description, tta))
            return torch.stack([model.log_probabilities(view).exp() for view in views]).mean(0)

    description = {key: first[key] for key in COPIED if key in first}
    description |= {
        "drawn": any(description["drawn"] for description in descriptions),
        "architecture": "+".join(dict.fromkeys(each["architecture"] for each in descriptions)),
        "macro_f1": first["macro_f1"] if len(models) == 1 else None,
        "tta": views_of(first, tta),
        **({"attribute": attribute} if attribute else {}),
    }
    return Average().eval().requires_grad_(False), description


def export_onnx(files: list[Path], output: Path, tta=None, offsets=True) -> float:
    """Write the average of model files to one ONNX file that says how to feed it.

    Returns the largest difference of its probabilities from PyTorch's on seven random photos.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  (needed for the comparison)
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise UserError(
            f"--export: needs {error.name}; install what is in requirements-extras.txt"
        ) from None
    if any(file.suffix == ".onnx" for file in files):
        raise UserError("--export: give model files, not ONNX files")
    module, description = joined(files, tta, offsets)
    random = np.random.default_rng(0).integers(0, 256, (7, *description["resize"], 3), np.uint8)
    warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's exporter about PyTorch
    program = torch.onnx.export(
        module,
        (torch.from_numpy(random[:5]),),
        dynamo=True,
        verbose=False,
        input_names=["photos"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"mask_classifier": json.dumps(description)})
    with atomic(output) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    session, _ = open_session(output)
    of_onnx = session.run(None, {"photos": random})[0]
    return float(np.abs(of_onnx - module(torch.from_numpy(random)).numpy()).max())
