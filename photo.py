"""Answers in words for single photos, from a model file, or from an ONNX file with onnxruntime, NumPy and Pillow alone.

    python inference.py --name swin face.jpg --draw answers/
    python inference.py --name swin --export swin.onnx
    python inference.py --checkpoint swin.onnx face.jpg
"""

import json
import tempfile
import unicodedata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli import IMAGE_EXTENSIONS, UserError, atomic
from transforms import PhotoError, load_photo, open_photo, upright_rgb

MASKS = ("mask worn", "mask worn wrongly", "no mask")
GENDERS = ("male", "female")
AGES = ("under 30", "30 to 59", "60 and over")
CLASSES = len(MASKS) * len(GENDERS) * len(AGES)


def photos_in(paths: list[str]) -> list[Path]:
    """The photos named, those of a named folder by name; UserError for what is not there."""
    photos = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith("."))
            if not inside:
                raise UserError(f"{path}: holds no photos")
            photos += inside
        elif path.is_file():
            photos.append(path)
        else:
            raise UserError(f"{path}: does not exist")
    return photos


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: Korean letters take two, parts put together (macOS) none of their own."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in unicodedata.normalize("NFC", text))


def words(probabilities: np.ndarray) -> list[tuple[str, float]]:
    """The class of the highest of 18 probabilities as mask, gender and age in words, each with the probability of that word alone."""
    cube = probabilities.reshape(len(MASKS), len(GENDERS), len(AGES))
    answer = np.unravel_index(cube.argmax(), cube.shape)
    names = (MASKS[answer[0]], GENDERS[answer[1]], AGES[answer[2]])
    return [(name, float(cube.take(index, axis).sum())) for axis, (name, index) in enumerate(zip(names, answer, strict=True))]


def draw(photo: Path, answer: list[tuple[str, float]], output: Path) -> None:
    """Write the photo with its answer in a strip below to `output` (png), at most 800 pixels high, at least 240 wide."""
    with open_photo(photo) as stored:
        image = upright_rgb(stored)
    image.thumbnail((800, 800))
    larger = min(240 / image.width, 800 / image.height)
    if larger > 1:
        image = image.resize((max(1, round(image.width * larger)), max(1, round(image.height * larger))))
    width = max(240, image.width)
    size = max(14, width // 18)
    strip = Image.new("RGB", (width, round(size * 4.6)), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    for line, (name, probability) in enumerate(answer):
        top = size * (0.4 + 1.35 * line)
        pen.rectangle((0, top - size * 0.1, strip.width * probability, top + size * 1.15), fill="#cfe3f5")
        pen.text((size * 0.5, top), name, fill="black", font=font)
        pen.text((strip.width - size * 0.5, top), f"{probability:.0%}", fill="black", font=font, anchor="ra")
    with atomic(output) as temporary:
        picture = Image.new("RGB", (width, image.height + strip.height), "white")
        picture.paste(image, ((width - image.width) // 2, 0))
        picture.paste(strip, (0, image.height))
        picture.save(temporary, "PNG")


# ---------------------------------------------------------------------------- models: (N, H, W, 3) uint8 -> (N, 18) probabilities


def onnx_model(path: Path):
    """The model in an exported ONNX file, and its description; UserError if it is none."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: needs onnxruntime; install it with 'pip install onnxruntime'") from None
    if not path.is_file():
        raise UserError(f"{path}: does not exist")
    try:
        session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        description = json.loads(session.get_modelmeta().custom_metadata_map["mask_classifier"])
        resize, crop = description["resize"], description["crop"]
        sized = [resize] if crop is None else [resize, crop]
        good = all(len(pair) == 2 and all(type(v) is int and 0 < v <= 4096 for v in pair) for pair in sized)
    except Exception as error:  # onnxruntime has exceptions of its own for each kind of broken file
        raise UserError(f"{path}: not an ONNX file that inference.py --export wrote ({type(error).__name__})") from None
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

    import transforms
    from model import load_model, views_of

    models = [load_model(path) for path in files]
    first = models[0].description
    for path, model in zip(files, models, strict=True):
        if (model.description["resize"], model.description["crop"]) != (first["resize"], first["crop"]):
            raise UserError(f"{path}: takes photos of another size or crop than {files[0]}; answer with one of them")

    class Average(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.models = torch.nn.ModuleList(models)

        def forward(self, photos):
            images = photos.permute(0, 3, 1, 2).float()
            return torch.stack([self.answer(model, images) for model in self.models]).mean(0)

        @staticmethod
        def answer(model, images):
            views = transforms.views(images, views_of(model.description, tta))
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
        raise UserError(f"--export: needs {error.name}; install what is in requirements-onnx.txt") from None
    import torch

    module, description = joined(files, tta)
    random = np.random.default_rng(0).integers(0, 256, (7, *description["resize"], 3), np.uint8)
    warnings.simplefilter("ignore", FutureWarning)  # of PyTorch's exporter about PyTorch
    program = torch.onnx.export(module, (torch.from_numpy(random[:5]),), dynamo=True, verbose=False, input_names=["photos"],
                                output_names=["probabilities"], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))  # fmt: skip
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"mask_classifier": json.dumps(description)})
    with atomic(output) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    answers = onnx_model(output)[0](random)
    difference = float(np.abs(answers - module(torch.from_numpy(random)).numpy()).max())
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB); its answers differ by at most {difference:.1e} from PyTorch's")


# ---------------------------------------------------------------------------- the command


def main(args, files: list[Path]) -> int:
    """Write args.export, or print the answer to every photo in args.photos and draw it in args.draw. 1 if a photo could not be read."""
    if args.export:
        export(files, Path(args.export), args.tta)
        return 0
    if len(files) == 1 and files[0].suffix == ".onnx":
        answer, description = onnx_model(files[0])
    elif any(path.suffix == ".onnx" for path in files):
        raise UserError("--checkpoint: give one ONNX file alone")
    else:
        answer, description = torch_model(files, args.tta)
    if description.get("drawn"):
        print("warning: this model has seen drawn faces only; its answers on photos mean nothing")
    photos = photos_in(args.photos)
    seen = photos
    if args.crop_faces:
        from images import cropped

        faces = tempfile.TemporaryDirectory()
        seen = cropped(photos, Path(args.crop_faces), Path(faces.name))
    width, unread, taken = max(columns(str(photo)) for photo in photos), 0, set()
    for photo, face in zip(photos, seen, strict=True):
        name = str(photo) + " " * (width - columns(str(photo)))
        try:
            pixels = load_photo(face, tuple(description["resize"]), description["crop"])
        except PhotoError as error:
            print(f"{name}  cannot be answered: {error.reason}")
            unread += 1
            continue
        said = words(answer(pixels[None])[0])
        print(f"{name}  " + "  ".join(f"{name:<{pad}} {p:4.0%}" for (name, p), pad in zip(said, (17, 6, 11), strict=True)))
        if args.draw:
            name = next(name for n in range(1, len(photos) + 1) if (name := photo.stem + (f"-{n}" if n > 1 else "")) not in taken)
            taken.add(name)
            draw(photo, said, Path(args.draw) / f"{name}.png")
    if args.draw:
        print(f"wrote {len(taken)} picture{'s' * (len(taken) != 1)} into {args.draw}")
    return int(unread > 0)
