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


def test_a_gpus_benchmark_runs_every_case_with_a_tiny_model(
    tmp_path, monkeypatch, compiler, capsys
):
    """Its processes that are killed are left out: tests/training/test_resume.py has them."""
    import torch

    from benchmarks import gpu

    compiled = []

    def compile_eagerly(model, **_):
        compiled.append(model)
        return real(model, backend="eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: compiled.append(model))
    monkeypatch.setattr(gpu.Bench, "resume", lambda bench: {"difference": 0.0})
    file = tmp_path / "gpu.json"
    flags = ["--device", "cpu", "--tiny", "--repeats", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *flags])
    assert gpu.main(gpu.parse_args()) == 0, capsys.readouterr().out
    cases = json.loads(file.read_text())["cases"]
    assert len(compiled) >= 2
    assert cases["fp16 overflow"]["updates_left_out"] > 0
    assert cases["fp16 overflow"]["weights_finite"]
    assert min(cases["a small CNN's update"]["update_ms"].values()) > 0
    speeds = [case["images_per_s"] for name, case in cases.items() if "ing, " in name]
    assert "| training, bf16, compiled |" in capsys.readouterr().out
    assert min(speeds) > 0
