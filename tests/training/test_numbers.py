"""Numbers that are not finite, learning rates, memory that is short, a Swin, what is left out."""

import dataclasses
import json
import shutil
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import dataset
import train
from core import device
from core.errors import UserError
from model import MaskClassifier
from prediction import Predictor
from training import loss_meter, startup
from training import optimizer as optimizer_module
from training.optimizer import Schedule, build_optimizer, check_optimizer, halvings


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_names_its_photos(
    drawn, trained, tmp_path, monkeypatch, accumulate
):
    """In the third of the steps, found at the log interval's end; what was saved before stays."""
    calls, real = [], train.total_loss

    def broken(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 11 else 1)

    monkeypatch.setattr(train, "total_loss", broken)
    with pytest.raises(UserError, match="loss is not finite in step 3 of epoch 2") as error:
        trained(drawn, tmp_path, "--epochs", "3", "--accumulate", accumulate)
    frame, split = dataset.read_train(drawn / "train"), pd.read_csv(tmp_path / "a" / "split.csv")
    held_out = frame["person"].isin(split["person"][split["fold"] == 0])
    paths = frame["path"][~held_out].reset_index(drop=True)
    order = dataset.EpochSampler(len(paths), 42).of_epoch(1)[32:48]
    assert str(error.value).endswith(", ".join(paths[row] for _, row, _ in order))
    stored = torch.load(tmp_path / "a" / "last.ckpt", weights_only=True)
    assert stored["epoch"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in stored["model"].values())


class BadGradient(torch.autograd.Function):
    """The loss as it is, and a gradient that is not a number."""

    @staticmethod
    def forward(_, loss):
        return loss.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * float("nan")


def spoil_gradients(monkeypatch, *which):
    calls, real = [], train.total_loss

    def spoiled(*arguments):
        calls.append(1)
        loss = real(*arguments)
        return BadGradient.apply(loss) if len(calls) in which else loss

    monkeypatch.setattr(train, "total_loss", spoiled)


@pytest.mark.parametrize("clip", ["1", "0"])
def test_a_gradient_that_is_not_finite_is_not_saved(drawn, trained, tmp_path, monkeypatch, clip):
    spoil_gradients(monkeypatch, 8)  # the last step of the epoch, whose loss is finite
    with pytest.raises(UserError, match="gradient is not finite in step 8 of epoch 1"):
        trained(drawn, tmp_path, "--epochs", "1", "--clip", clip)
    assert not list(tmp_path.rglob("*.ckpt")) + list(tmp_path.rglob("*.safetensors"))


def test_overflows_of_fp16_are_left_out_and_counted(drawn, trained, tmp_path, monkeypatch, capsys):
    """With PyTorch's own scaler, on a CPU."""
    choice = device.Choice("fp16", True, "as asked")
    monkeypatch.setattr(device, "choose", lambda *_, **__: choice)
    spoil_gradients(monkeypatch, 2, 3)
    run = trained(drawn, tmp_path, "--epochs", "1", "--precision", "auto")
    table = pd.read_csv(run / "metrics.csv")
    assert list(table["fp16_overflows"]) == [2]
    assert table["loss"].notna().all()
    assert "2 fp16 overflows" in capsys.readouterr().out
    tensors = load_file(run / "best.safetensors").values()
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    spoil_gradients(monkeypatch, *range(100))
    monkeypatch.setattr(loss_meter, "OVERFLOWS_IN_A_ROW", 10)
    with pytest.raises(UserError, match="not finite in step 3 of epoch 2"):
        trained(drawn, tmp_path, "--epochs", "2", "--precision", "auto")


def test_more_micro_batches_to_an_update_than_an_epoch_has_make_one_update(
    drawn, trained, tmp_path, capsys
):
    trained(drawn, tmp_path, "--epochs", "2", "--accumulate", "100")
    said = capsys.readouterr().out
    assert "1 updates an epoch, 2 in all" in said
    assert "8 batches" in said


@pytest.mark.parametrize(
    ("photos", "ranks", "batch_size", "accumulate", "split", "expected"),
    [
        (131, 1, 16, 1, 1, (16, 1, 8)),
        (131, 2, 16, 1, 1, (16, 1, 4)),
        (131, 1, 16, 3, 2, (8, 6, 2)),
        (131, 1, 16, 100, 4, (4, 32, 1)),
        (5, 1, 16, 2, 1, (16, 1, 1)),
    ],
)
def test_steps_of_an_epoch(photos, ranks, batch_size, accumulate, split, expected):
    plan = startup.Plan([8, 8], [0] * 3, [1] * 3, 0, "fp32", True, "", split=split)
    args = SimpleNamespace(batch_size=batch_size, accumulate=accumulate)
    plan = startup._count_steps(plan, args, photos, ranks)
    assert (plan.batch_size, plan.accumulate, plan.updates) == expected


def test_a_plateau_halves_the_learning_rate():
    assert [halvings([0.1, 0.2, 0.2, 0.1, 0.3, 0.3, 0.3, 0.3][:n], 2) for n in range(9)] == [
        *(0, 0, 0, 0, 1, 1, 1, 2, 2)
    ]
    args = SimpleNamespace(scheduler="plateau", lr=0.1, warmup=1.0, lr_decay_step=2)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = Schedule(optimizer, args, epochs=10, per_epoch=4)
    assert schedule.set(0) == pytest.approx(0.005)
    assert schedule.set(2) == pytest.approx(0.0275)
    assert schedule.set(39) == pytest.approx(0.05)
    assert schedule.set(39, [0.3, 0.2, 0.2]) == pytest.approx(0.025)
    assert "plateau, 4 updates an epoch, 40 in all" in str(schedule)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("adahessian", "second derivatives"),
        ("kron", "pip install opt_einsum"),
        ("FusedLAMB", "APEX optimizers"),
        ("bnbadamw8bit", "bitsandbytes optimizers"),
    ],
)
def test_an_optimizer_that_cannot_run_here_is_refused_before_any_work(name, reason, monkeypatch):
    monkeypatch.setattr(optimizer_module, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "apex", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=f"--optimizer {name}: cannot be used here.*{reason}"):
        check_optimizer(name)


@pytest.mark.parametrize(("name", "weight_decay"), [("LAMB", 0.0), ("LAMB", 0.02), ("lambw", 0.0)])
@pytest.mark.parametrize("size", [0.25, 1.0, 40.0])
def test_lamb_moves_weights_by_a_share_of_their_size(size, name, weight_decay):
    """Whatever size they have. Its moments are those of the gradient: --clip alone clips."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {"backbone": torch.nn.Conv2d(3, 4, 3, bias=False), "head": torch.nn.Linear(4, 2)}
    )
    weights = [model["backbone"].weight, model["head"].weight]
    args = SimpleNamespace(optimizer=name, lr=5e-3, weight_decay=weight_decay, layer_decay=1.0)
    optimizer = build_optimizer(model, args, fused=False)
    with torch.no_grad():
        for weight in weights:
            weight *= size
    before = [weight.detach().clone() for weight in weights]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 100
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        moved = (weight.detach() - old).norm() / old.norm()
        assert float(moved) == pytest.approx(5e-3, rel=1e-3)
        torch.testing.assert_close(optimizer.state[weight]["exp_avg"], 0.1 * weight.grad)


def test_a_refused_command_does_not_wait_for_photos_that_are_checked(
    drawn, trained, tmp_path, monkeypatch
):
    going_on = threading.Event()
    monkeypatch.setattr(dataset, "check_photos", lambda *_: going_on.wait(60) and [])
    before = set(threading.enumerate())
    with pytest.raises(UserError, match="no_such_file"):
        trained(drawn, tmp_path, "--pretrained", "no_such_file")
    checking = set(threading.enumerate()) - before
    assert len(checking) == 1
    assert all(thread.daemon for thread in checking)
    going_on.set()


def test_photos_that_cannot_be_read_are_left_out_when_asked(drawn, trained, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    photos = sorted((data / "train" / "images").glob("0*/mask1.*"))
    for photo in photos[:2]:
        photo.write_bytes(b"no photo")
    with pytest.raises(UserError, match="2 of 166 photos"):
        trained(data, tmp_path / "model")
    assert not list((tmp_path / "model").glob("*"))
    trained(
        data,
        tmp_path / "model",
        "--epochs",
        "1",
        "--on_error",
        "skip",
        "--drop_ages",
        "0",
        "20",
        "--drop_ages",
        "58",
        "90",
    )
    said = capsys.readouterr().out
    assert "left out 2 of 166 photos" in said
    assert str(photos[0]) in said
    assert "as sampled" in said


def test_a_gpus_settings_follow_from_the_plan_of_a_resumed_run_too():
    """TF32 and cuDNN's search for the fastest algorithm, whoever made the choice."""
    plan = startup.Plan([32, 24], [0] * 3, [1] * 3, 0, "bf16", True, "recorded")
    fabric = SimpleNamespace(device=torch.device("cuda"), strategy=SimpleNamespace())
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
        startup.apply(plan, torch.nn.Linear(1, 1), fabric)
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.benchmark
        assert fabric.strategy.precision.precision == "bf16-mixed"
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize(
    ("millions", "updates", "compiled"), [(197, 945, True), (197, 300, False), (3, 4000, False)]
)
def test_a_gpu_compiles_where_it_is_worth_the_minute(compiler, millions, updates, compiled):
    """Swin-Large on the competition's 15,120 photos for five epochs is; small models are not."""
    parameter = torch.nn.Parameter(torch.empty(millions, 10**6, device="meta"))
    model = SimpleNamespace(parameters=lambda: [parameter])
    plan = startup.Plan([8, 8], [0] * 3, [1] * 3, 0, "bf16", True, "", batch_size=16)
    plan = dataclasses.replace(plan, updates=updates)
    args = SimpleNamespace(epochs=5, compile="auto")
    assert startup._compiles(args, plan, model, "cuda") is compiled
    assert not startup._compiles(args, plan, model, "cpu")


def test_validation_goes_on_with_fewer_photos_at_once_where_memory_is_short(
    drawn, trained, tmp_path, monkeypatch, capsys
):
    flags = ("--epochs", "1", "--head", "joint", "--valid_batch_size", "8")
    roomy = trained(drawn, tmp_path, *flags, name="roomy")
    enough = MaskClassifier.log_probabilities

    def small(model, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return enough(model, images)

    monkeypatch.setattr(MaskClassifier, "log_probabilities", small)
    tight = trained(drawn, tmp_path, *flags, name="tight")
    assert "going on with 2 photos" in capsys.readouterr().out
    scores = [pd.read_csv(run / "metrics.csv")["macro_f1"].tolist() for run in (roomy, tight)]
    assert scores[0] == scores[1]


SWIN = (
    "--model swin_large_patch4_window12_384 --resize 384 384 --batch_size 4 --accumulate 2 "
    "--epochs 1 --checkpointing yes --ema 0.9 --mixup 0.5 --tta --val_ratio 0.3 --model_kwargs "
    "depths=[1,1,1,1] embed_dim=8 num_heads=[1,2,2,2] drop_path_rate=0.1"
).split()


def test_a_shallow_swin_of_real_shape_is_trained_by_the_defaults_of_transformers(
    drawn, trained, tmp_path, capsys
):
    """The windows and stages of Swin-L-384, each of one narrow block."""
    few = tmp_path / "few" / "images"
    for person in sorted((drawn / "train" / "images").glob("0*"))[:4]:
        shutil.copytree(person, few / person.name)
    run = trained(few.parent.parent, tmp_path, *SWIN, "--data_dir", few)
    assert "activation checkpointing" in capsys.readouterr().out
    assert len(pd.read_csv(run / "metrics.csv")) == 1
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert settings["optimizer"].lower() == "adamw"
    assert all(torch.isfinite(t).all() for t in load_file(run / "best.safetensors").values())


@pytest.mark.slow  # 5 GB
def test_swin_large_itself_takes_steps_and_predicts(drawn, trained, tmp_path):
    few = tmp_path / "few" / "images"
    person = min((drawn / "train" / "images").glob("0*"))
    shutil.copytree(person, few / person.name)
    flags = "--model SwinTransformerLarge384 --batch_size 2 --epochs 1 --val_ratio 0".split()
    run = trained(few.parent, tmp_path, *flags, "--data_dir", few)
    table = pd.read_csv(run / "metrics.csv")
    assert np.isfinite(table["loss"]).all()
    weights = load_file(run / "best.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) > 195e6
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert len(Predictor(run).predict([next(few.rglob("normal.*"))])) == 1
