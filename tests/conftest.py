"""Shared fixtures: one thread, no SageMaker variables, small folders of people and photos."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from PIL import Image

from core import device
from core.folders import ROOT

STEMS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")

os.environ["OMP_NUM_THREADS"] = (
    "1"  # also of the scripts that tests start: another number would change the bits
)
torch.set_num_threads(1)
# The first backward pass starts autograd's threads, for every kind of device known by then. Export
# to ONNX adds one, after which a process forked from this one could not train.
torch.ones(1, requires_grad=True).sum().backward()
settings.register_profile("tests", deadline=None, max_examples=50)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def one_thread():
    """Of PyTorch: a test that needs another number must not change the sums of the next one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_sagemaker(monkeypatch):
    """The folders and devices of the machine that runs the tests are not the tests' own."""
    for name in [name for name in os.environ if name.startswith("SM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """What torch.compile needs, whether or not the machine has it: a compiler, Python's headers."""
    compilers, which = ("cc", "gcc", "g++", "clang", "clang++"), device.shutil.which
    monkeypatch.setattr(
        device.shutil, "which", lambda name, *more: name in compilers or which(name, *more)
    )
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(device.sysconfig, "get_path", lambda *_: str(tmp_path))


@pytest.fixture
def people(tmp_path):
    """people(folder names, csv rows or None, files) -> a train folder of empty files."""

    def make(
        names, csv=None, files=tuple(f"{stem}.jpg" for stem in STEMS), root=tmp_path / "train"
    ) -> Path:
        for name in names:
            (root / "images" / name).mkdir(parents=True)
            for file in files:
                (root / "images" / name / file).touch()
        if csv is not None:
            (root / "train.csv").write_text("\n".join(["id,gender,race,age,path", *csv]) + "\n")
        return root

    return make


@pytest.fixture
def photos(tmp_path):
    """photos(n, size) -> the paths of n photos of random pixels, height x width, without loss."""

    def make(count, size=(16, 12)) -> list[Path]:
        random = np.random.default_rng(7)
        paths = [tmp_path / f"photo{number}.png" for number in range(count)]
        for path in paths:
            Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
        return paths

    return make


@pytest.fixture
def frame():
    """frame(ages by gender) -> a table of seven photos a person, as read_train gives it."""

    def make(ages, genders=(0, 1)) -> pd.DataFrame:
        rows = []
        for number, age in enumerate(ages):
            gender = genders[number % len(genders)]
            person = f"{number:03d}_{('male', 'female')[gender]}_Asian_{age}"
            for stem in STEMS:
                mask = {"incorrect_mask": 1, "normal": 2}.get(stem, 0)
                rows.append(
                    {
                        "person": person,
                        "id": f"{number:03d}",
                        "gender": gender,
                        "race": "Asian",
                        "age": age,
                        "photo": stem,
                        "mask": mask,
                        "path": f"{person}/{stem}.jpg",
                    }
                )
        return pd.DataFrame(rows)

    return make


TINY = (
    "--model test_efficientnet --pretrained no --resize 32 24 --batch_size 16 --precision fp32 "
    "--layout last --logger csv --report no --workers 0"
).split()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A sample set of 24 + 6 people, 48 x 64 pixels."""
    out = tmp_path_factory.mktemp("data") / "sample"
    flags = "--people 24 --eval_people 6 --size 48 64".split()
    command = [sys.executable, ROOT / "prepare.py", "sample", out, *flags]
    subprocess.run(command, check=True, capture_output=True)
    return out


ADD_UP = ("--drop_ages",)


def later_wins(words: list[str]) -> list[str]:
    """Flags and their values; of a flag that is given twice the later one, unless it adds up."""
    groups = []
    for word in words:
        if word.startswith("--"):
            groups = [group for group in groups if word in ADD_UP or group[0] != word]
            groups.append([])
        groups[-1].append(word)
    return [word for group in groups for word in group]


@pytest.fixture(scope="session")
def training_flags():
    """training_flags(sample set, model_dir, flags, name) -> the arguments of a tiny training."""

    def make(data, model_dir, *flags, name="a"):
        folders = ["--data_dir", str(data / "train"), "--model_dir", str(model_dir)]
        return later_wins([*folders, "--name", name, *TINY, *map(str, flags)])

    return make


@pytest.fixture(scope="session")
def trained(training_flags):
    """Train in this process: the run folder."""
    import train
    from training import settings

    def run(data, model_dir, *flags, name="a"):
        train.main(settings.parse(training_flags(data, model_dir, *flags, name=name)))
        latest = json.loads((Path(model_dir) / "latest.json").read_text())
        return Path(model_dir) / latest["run"]

    return run
