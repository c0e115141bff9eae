"""ONNX files: export, and prediction with onnxruntime alone."""

import json
import warnings
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.files import atomic


def onnx_model(path: Path):
    """The model in an exported ONNX file, and its description; UserError if it is none."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{path}: needs onnxruntime; install it with 'pip install onnxruntime'"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: does not exist")
    try:
        options = onnxruntime.SessionOptions()
        # Threads that wait sleep: spinning takes the cores of whatever else runs (twice the time)
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            path, options, providers=onnxruntime.get_available_providers()
        )
        description = json.loads(session.get_modelmeta().custom_metadata_map["mask_classifier"])
        resize, crop = description["resize"], description["crop"]
        sized = [resize] if crop is None else [resize, crop]
        good = all(
            len(pair) == 2 and all(type(v) is int and 0 < v <= 4096 for v in pair) for pair in sized
        )
    except Exception as error:  # onnxruntime has exceptions of its own for each kind of broken file
        raise UserError(
            f"{path}: not an ONNX file that inference.py --export wrote ({type(error).__name__})"
        ) from None
    if not good:
        raise UserError(f"{path}: its metadata 'resize' and 'crop' cannot be served")
    return lambda pixels: session.run(None, {"photos": pixels})[0], description


def torch_model(files: list[Path], tta=None):
    """The average of model files, and its description; UserError if they take photos of different size."""
    import torch

    module, description = joined(files, tta)
    return lambda pixels: module(torch.from_numpy(pixels)).numpy(), description


def joined(files: list[Path], tta=None):
    """One module that answers (N, H, W, 3) uint8 with the average of the models' (N, 18) probabilities, and its description.

    The views `tta` are averaged too, where not given each model's own.
    """
    import torch

    from prediction.model_file import load_model
    from prediction.predict import views_of
    from prediction.tta import views as views_of_batch

    models = [load_model(path) for path in files]
    first = models[0].description
    for path, model in zip(files, models, strict=True):
        if (model.description["resize"], model.description["crop"]) != (
            first["resize"],
            first["crop"],
        ):
            raise UserError(
                f"{path}: takes photos of another size or crop than {files[0]}; answer with one of them"
            )

    class Average(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.models = torch.nn.ModuleList(models)

        def forward(self, photos):
            images = photos.permute(0, 3, 1, 2).float()
            return torch.stack([self.answer(model, images) for model in self.models]).mean(0)

        @staticmethod
        def answer(model, images):
            views = views_of_batch(images, views_of(model.description, tta))
            return torch.stack([model.log_probabilities(view).exp() for view in views]).mean(0)

    keys = ("resize", "crop", "class_names", "drawn")
    return Average().eval().requires_grad_(False), {key: first[key] for key in keys if key in first}


def export(files: list[Path], output: Path, tta=None) -> None:
    """Write the average of model files to one ONNX file whose metadata says how to feed it; its answers are compared on the way."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  (needed for the comparison)
        import onnxscript  # noqa: F401  (PyTorch's exporter needs it)
    except ImportError as error:
        raise UserError(
            f"--export: needs {error.name}; install what is in requirements-extras.txt"
        ) from None
    import torch

    module, description = joined(files, tta)
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
    answers = onnx_model(output)[0](random)
    difference = float(np.abs(answers - module(torch.from_numpy(random)).numpy()).max())
    print(
        f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB); its answers differ by at most {difference:.1e} from PyTorch's"
    )
