"""Files made of anything: every reader gives what it promises or a UserError of one line."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.corrections import apply_corrections
from core.errors import UserError
from core.extra_photos import possible_classes, read_extra
from core.files import read_json
from core.labels import OFFICIAL_BANDS
from model import MaskClassifier
from prediction import submission
from prediction.model_file import load_model, save_model
from training import checkpoint
from training.split import read_split

ANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A valid file of each kind, as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    model = MaskClassifier(
        "test_efficientnet",
        "joint",
        (32, 24),
        crop=[448, 336],
        bands=[30, 60],
        macro_f1=0.5,
        drawn=True,
    )
    save_model(model, folder / "model.safetensors")
    checkpoint.save_checkpoint(folder, epoch=1, model={"a": torch.ones(3)})
    array = io.BytesIO()
    np.savez(
        array,
        ImageID=np.array(["a.jpg", "b.jpg"]),
        probabilities=np.full((2, 18), 1 / 18, np.float32),
    )
    return {
        "model": (folder / "model.safetensors").read_bytes(),
        "checkpoint": (folder / "last.ckpt").read_bytes(),
        "npz": array.getvalue(),
        "csv": b"ImageID,ans\na.jpg,3\nb.jpg,17\n",
    }


def damaged(content: bytes, changes, end: int) -> bytes:
    """`content` with some bytes changed and cut off at `end`, both taken modulo its length."""
    content = bytearray(content)
    for position, value in changes:
        content[position % len(content)] = value
    return bytes(content[: len(content) - end % len(content)])


CHANGES = st.lists(
    st.tuples(st.one_of(st.integers(0, 2000), st.integers(0, 10**7)), st.integers(0, 255)),
    max_size=6,
)
ENDS = st.one_of(st.just(0), st.integers(0, 10**7))


def told(read, path: Path):
    """What `read(path)` gives; None for a UserError, which must be one line."""
    try:
        return read(path)
    except UserError as error:
        assert "\n" not in str(error)


@ANY
@given(changes=CHANGES, end=ENDS)
def test_a_damaged_model_file(whole, tmp_path, changes, end):
    (tmp_path / "a.safetensors").write_bytes(damaged(whole["model"], changes, end))
    model = told(load_model, tmp_path / "a.safetensors")
    assert model is None or sum(p.numel() for p in model.parameters()) > 1000


@ANY
@given(content=st.binary(max_size=300))
def test_bytes_for_a_model_file(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert told(load_model, tmp_path / "a.safetensors") is None


@ANY
@given(changes=CHANGES, end=ENDS)
def test_a_damaged_checkpoint(whole, tmp_path, changes, end):
    (tmp_path / "last.ckpt").write_bytes(damaged(whole["checkpoint"], changes, end))
    told(checkpoint.load_checkpoint, tmp_path)


@ANY
@given(changes=CHANGES, end=ENDS)
@example(changes=[(1677, 163)], end=0)  # an EOFError that says nothing
def test_damaged_probabilities(whole, tmp_path, changes, end):
    (tmp_path / "a.npz").write_bytes(damaged(whole["npz"], changes, end))
    read = told(submission.read_probabilities, tmp_path / "a.npz")
    assert read is None or read[1].shape == (2, 18)


@ANY
@given(changes=CHANGES, end=ENDS)
def test_a_damaged_submission(whole, tmp_path, changes, end):
    (tmp_path / "a.csv").write_bytes(damaged(whole["csv"], changes, end))
    frame = told(submission.read_submission, tmp_path / "a.csv")
    assert frame is None or frame["ans"].between(0, 17).all()


TEXT = st.text(
    st.one_of(st.sampled_from('",\n\r\t =;0123456789'), st.characters(exclude_categories=["Cs"])),
    max_size=80,
)


@ANY
@given(
    head=st.sampled_from(
        [
            "",
            "ImageID,ans\n",
            "person,field,value,photo\n",
            "person,fold\n",
            "\ufeffImageID,ans\r\n",
        ]
    ),
    text=TEXT,
)
def test_text_for_every_csv_and_json(tmp_path, head, text):
    path = tmp_path / "a.csv"
    path.write_bytes((head + text).encode())
    people = pd.DataFrame(
        {
            "person": ["1_male_A_20"],
            "id": ["1"],
            "gender": [0],
            "age": [20],
            "photo": ["normal"],
            "mask": [2],
        }
    )
    told(submission.read_submission, path)
    told(lambda path: apply_corrections(people, path), path)
    told(lambda path: read_split(path, people), path)
    told(read_json, path)


@ANY
@given(
    head=st.sampled_from(["path,mask,gender,age\n", "path,age,age\n", "age;path\n"]),
    rows=st.lists(
        st.tuples(st.sampled_from(["a.jpg", "/a.jpg", "../x/a.jpg", "", " a.jpg"]), TEXT),
        max_size=4,
    ),
)
def test_text_for_a_list_of_extra_photos(tmp_path, head, rows):
    (tmp_path / "a.jpg").touch()
    separator = ";" if ";" in head else ","
    text = "\n".join(separator.join(row) for row in rows)
    (tmp_path / "a.csv").write_bytes((head + text).encode())
    frame = told(read_extra, tmp_path / "a.csv")
    if frame is not None:
        assert set(frame["path"]) == {str(tmp_path / "a.jpg")}
        assert possible_classes(frame, OFFICIAL_BANDS).any(axis=1).all()
