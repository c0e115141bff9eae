"""Validation on a device: its precision, and what it says where memory is short."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.errors import UserError
from model import MaskClassifier
from prediction.tables import read_predictions
from training import validation


@pytest.fixture
def validate(monkeypatch):
    def build(precision, kind):
        monkeypatch.setattr(validation, "validation_loader", lambda *arguments: [])
        args = SimpleNamespace(
            precision=precision, head="joint", attribute=None, valid_batch_size=8, tta=[]
        )
        plan, fabric = (
            SimpleNamespace(channels_last=True),
            SimpleNamespace(device=torch.device(kind)),
        )
        return validation.Validation([], args, plan, fabric, 0, False)

    return build


@pytest.mark.parametrize(
    ("asked", "kind", "used"),
    [
        *(("auto", "cuda", "fp16"), ("bf16", "cuda", "bf16"), ("fp32", "cuda", "fp32")),
        *(("auto", "cpu", "fp32"), ("bf16", "cpu", "bf16")),
    ],
)
def test_the_precision_is_the_one_asked_for_and_else_that_of_inference(validate, asked, kind, used):
    assert validate(asked, kind).precision == used


def test_where_one_photo_does_not_fit_the_flag_of_validation_is_named(validate, monkeypatch):
    def predict(*arguments, **more):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(validation, "predict", predict)
    with pytest.raises(UserError, match=r"--valid_batch_size 8 does not fit .* --resume"):
        validate("auto", "cuda")(None)


def test_scores_that_overflow_in_half_precision_are_validated_in_fp32(
    drawn, trained, tmp_path, monkeypatch
):
    real = MaskClassifier._with_offsets

    def overflowing(self, scores):
        lost = torch.is_autocast_enabled("cpu")
        return torch.full_like(scores, torch.nan) if lost else real(self, scores)

    monkeypatch.setattr(MaskClassifier, "_with_offsets", overflowing)
    run = trained(drawn, tmp_path, "--epochs", "1", "--precision", "bf16", "--tta")
    probabilities = read_predictions(run)[1]
    assert np.isfinite(probabilities).all() and len(np.unique(probabilities)) > 18
