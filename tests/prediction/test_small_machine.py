"""docs/entrance.md names a few packages for a machine without PyTorch: they are enough."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import cv2
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from core.folders import ROOT
from model import MaskClassifier
from prediction.export import export_onnx
from prediction.model_file import save_model
from preparation.sample import draw_photo, look_of, make_people

# Runs a script in a Python that cannot import some packages.
LIMITED = """
import json, runpy, sys
missing, sys.argv = set(json.loads(sys.argv[1])), sys.argv[2:]
class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def with_requirements(names) -> set[str]:
    """These distributions, and all that they require."""
    found, waiting = set(), list(names)
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needs = map(Requirement, requires(name) or [])
        except PackageNotFoundError:  # not for this system
            continue
        waiting += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


def documented() -> list[str]:
    """The packages that docs/entrance.md installs on a small machine."""
    text = (ROOT / "docs" / "entrance.md").read_text(encoding="utf-8")
    text = text.replace("\\\n", " ")
    return re.search(r"^pip install (.*\bonnxruntime\b.*)$", text, re.M)[1].split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a script of the project with the documented packages alone, given a model file."""
    folder = tmp_path_factory.mktemp("small")
    more = {"crop": None, "bands": [30, 60], "macro_f1": None, "drawn": False, "tta": []}
    torch.manual_seed(0)
    save_model(MaskClassifier("test_efficientnet", "joint", (32, 24), **more), folder / "door.st")
    export_onnx([folder / "door.st"], folder / "door.onnx")
    allowed = with_requirements(documented())
    missing = [
        name
        for name, owners in packages_distributions().items()
        if not any(normal(owner) in allowed for owner in owners)
    ]
    assert {"torch", "timm", "pandas", "sklearn"} <= set(missing)

    def run(script, *flags):
        command = [sys.executable, "-c", LIMITED, json.dumps(missing), script]
        command += ["--checkpoint", folder / "door.onnx", *flags]
        return subprocess.run(
            list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="module")
def portrait():
    person = make_people(1, 0, 0)[0]
    return draw_photo(look_of(person), 2, person.seed, (256, 192))


def test_a_photo_is_predicted(run, portrait, tmp_path):
    Image.fromarray(portrait).save(tmp_path / "a.png")
    done = run("inference.py", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert "mask" in done.stdout


def test_a_video_gets_its_table(run, portrait, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (192, 256))
    for _ in range(8):
        film.write(portrait[:, :, ::-1].copy())
    film.release()
    done = run("inference.py", "--video", tmp_path / "a.mp4", "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.csv").is_file()


def test_the_page_begins(run):
    done = run("demo.py", "--port", 99999)  # refused after everything was imported
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "--port 99999" in done.stderr
