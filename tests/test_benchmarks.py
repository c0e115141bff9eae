"""The benchmarks run, in their shortest form, and their figures hang together."""

import json
import subprocess
import sys

import pytest

from core.folders import ROOT


def test_a_run_killed_again_and_again_ends_as_one_left_alone():
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--kills", "3", "--epochs", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tensors equal bit for bit: 93 of 93" in done.stdout


def test_throughput_measures_every_loop_the_loader_and_the_vote(tmp_path):
    flags = [
        "--model",
        "test_efficientnet",
        "--resize",
        "32",
        "24",
        "--batch_size",
        "4",
        "--precision",
        "fp32",
        "--layout",
        "last",
        "--steps",
        "2",
        "--repeats",
        "3",
        "--vote_rows",
        "1000",
        "--job_epochs",
        "0",
        "--json",
        tmp_path / "figures.json",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "throughput.py", *flags],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    ratios = (
        "train_vs_bare",
        "train_vs_plain",
        "train_vs_timm",
        "infer_vs_bare",
        "infer_vs_plain",
        "loader_vs_train",
        "vote_seconds",
        "vote_peak_mb",
    )
    assert all(0 < figures[name] < 10_000 for name in ratios)
    speeds = figures["images_per_s"]
    assert all(0 <= each["others"] <= 1 for each in figures["neighbours"].values())
    assert len(speeds) == 8 and all(
        len(values) == 3 and min(values) > 0 for values in speeds.values()
    )
    in_turn = sorted(
        ours / bare
        for ours, bare in zip(speeds["training, ours"], speeds["training, bare"], strict=True)
    )
    assert figures["train_vs_bare"] == pytest.approx(in_turn[1])
