"""Two processes on the CPU (gloo), started as train.sh starts them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from core.folders import ROOT

RANKS = [sys.executable, "-P", ROOT / "core" / "launch.py", "--standalone", "--nproc_per_node=2"]


def start(*arguments):
    return subprocess.Popen(
        [*RANKS, ROOT / "train.py", *arguments, "--accelerator", "cpu", "--devices", "2"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_train_and_validate_as_one(drawn, trained, training_flags, tmp_path):
    """The same global batch, a model without batch statistics, cross-entropy."""
    flags = (
        "--model test_vit --resize 160 160 --epochs 2 --criterion cross_entropy --drop 0 "
        "--lr 1e-4 --optimizer sgd --freeze 0 --accumulate 2"
    ).split()
    one = trained(drawn, tmp_path, *flags, name="one")
    process = start(
        *training_flags(
            drawn, tmp_path, *flags, "--batch_size", "8", "--resume", "auto", name="two"
        )
    )
    said, _ = process.communicate()
    assert process.returncode == 0, said
    two = tmp_path / "two"
    tables = [pd.read_csv(run / "metrics.csv") for run in (one, two)]
    for column in ("loss", "macro_f1", "accuracy", "mask", "gender", "age", "lr"):
        np.testing.assert_allclose(tables[1][column], tables[0][column], rtol=1e-4, err_msg=column)
    weights = [load_file(run / "best.safetensors") for run in (one, two)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), name
    predictions = [len(pd.read_csv(run / "val_predictions.csv")) for run in (one, two)]
    assert predictions[0] == predictions[1]


def test_two_processes_with_workers_are_stopped_and_resumed_to_the_same_end(
    drawn, training_flags, tmp_path
):
    """Batch norm, weighted sampling, moving average, accumulation, dropout, carried F1 counts."""
    flags = (
        "--epochs 4 --batch_size 4 --accumulate 2 --sampling weighted --ema 0.9 --drop 0.2 "
        "--criterion f1 --f1_memory 0.5 --mixup 0.3 --workers 1 --check_photos no"
    ).split()
    whole = start(*training_flags(drawn, tmp_path, *flags, name="whole"))
    said, _ = whole.communicate()
    assert whole.returncode == 0, said
    cut = start(*training_flags(drawn, tmp_path, *flags, name="cut"))
    metrics_file = tmp_path / "cut" / "metrics.csv"
    while not metrics_file.exists() and cut.poll() is None:
        time.sleep(0.01)
    signalled = time.monotonic()
    os.killpg(cut.pid, signal.SIGTERM)
    said, _ = cut.communicate()
    assert cut.returncode == 128 + signal.SIGTERM, said
    assert time.monotonic() - signalled < 20
    assert said.count("all saved") == 1
    assert "Traceback" not in said
    resumed = start(*training_flags(drawn, tmp_path, *flags, "--resume", name="cut"))
    said, _ = resumed.communicate()
    assert resumed.returncode == 0, said
    tensors, others = (load_file(tmp_path / n / "best.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    wrong = start(*training_flags(drawn, tmp_path, *flags, "--lr", "1", "--resume", name="cut"))
    said, _ = wrong.communicate()
    assert wrong.returncode == 2
    assert said.count("--resume: the run in") == 1
