"""Several processes on the CPU (gloo): most forked from this one, one as train.sh starts it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import dataset
import train
from benchmarks.forked import Forked
from core.errors import UserError
from core.folders import ROOT
from prediction import Predictor, tables
from training import data, settings, startup

RANKS = [sys.executable, "-P", ROOT / "core" / "launch.py", "--standalone", "--nproc_per_node=2"]


@pytest.fixture
def ranks(training_flags, drawn, tmp_path):
    """ranks(flags, name, count) -> the exit status and the words of train.py by `count` ranks."""

    def run(*flags, name, count=2):
        machine = ("--accelerator", "cpu", "--devices", count, "--check_photos", "no")
        flags = training_flags(drawn, tmp_path, *machine, *flags, name=name)
        said, _ = (process := Forked(flags, count, tmp_path / "said")).communicate(timeout=120)
        return process.returncode, said

    return run


def assert_same_weights(*runs):
    first, *others = (load_file(run / "best.safetensors") for run in runs)
    for tensors in others:
        assert all(torch.equal(tensors[name], first[name]) for name in first)


def test_two_processes_train_and_validate_as_one(ranks, drawn, trained, tmp_path):
    """The same global batch, a model without batch statistics, cross-entropy."""
    flags = (
        "--model test_vit --resize 160 160 --epochs 2 --criterion cross_entropy --drop 0 "
        "--lr 1e-4 --optimizer sgd --freeze 0 --accumulate 2"
    ).split()
    one = trained(drawn, tmp_path, *flags, name="one")
    status, said = ranks(*flags, "--batch_size", 8, "--resume", "auto", name="two")
    assert status == 0, said
    two = tmp_path / "two"
    metrics = [pd.read_csv(run / "metrics.csv") for run in (one, two)]
    for column in ("loss", "macro_f1", "accuracy", "mask", "gender", "age", "lr"):
        np.testing.assert_allclose(metrics[1][column], metrics[0][column], rtol=1e-4)
    weights = [load_file(run / "best.safetensors") for run in (one, two)]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-5), name
    predictions = [len(pd.read_csv(run / "val_predictions.csv")) for run in (one, two)]
    assert predictions[0] == predictions[1]


# Batch norm, weighted sampling, moving average, accumulation, dropout, carried F1 counts.
EVERYTHING = (
    "--epochs 4 --batch_size 4 --accumulate 2 --sampling weighted --ema 0.9 --drop 0.2 "
    "--criterion f1 --f1_memory 0.5 --mixup 0.3 --workers 1 --offsets yes"
).split()


def test_ranks_start_on_a_machine_that_cannot_resolve_its_own_name(tmp_path):
    (tmp_path / "script.py").write_text("import os; open('rank' + os.environ['RANK'], 'w')")
    nameless = (
        "import runpy, socket, sys; sys.argv[:1] = []; socket.getfqdn = lambda *_: 'no.invalid'; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python, *launcher = RANKS
    command = [python, "-c", nameless, *launcher[1:], "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"script.py", "rank0", "rank1"}


def test_two_processes_with_workers_are_stopped_and_resumed_to_the_same_end(
    ranks, drawn, training_flags, tmp_path
):
    status, said = ranks(*EVERYTHING, name="whole")
    assert status == 0, said
    one, two = torch.load(tmp_path / "whole" / "last.ckpt")["ranks"]
    assert not torch.equal(one["random"], two["random"])  # dropout is drawn anew on each
    flags = training_flags(drawn, tmp_path, *EVERYTHING, "--check_photos", "no", name="cut")
    cut = subprocess.Popen(
        [*RANKS, ROOT / "train.py", *flags, "--accelerator", "cpu", "--devices", "2"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics_file = tmp_path / "cut" / "metrics.csv"
    while not metrics_file.exists() and cut.poll() is None:
        time.sleep(0.01)
    signalled = time.time()
    os.killpg(cut.pid, signal.SIGTERM)
    said, _ = cut.communicate()
    assert cut.returncode == 128 + signal.SIGTERM, said
    assert (tmp_path / "cut" / "last.ckpt").stat().st_mtime - signalled < 10
    assert time.time() - signalled < 20  # torchrun kills after 30
    assert said.count("all saved") == 1
    assert "Traceback" not in said
    older(tmp_path / "cut")
    status, said = ranks(*EVERYTHING, "--resume", name="cut")
    assert status == 0, said
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    for flags, words in (
        (("--resume", "--lr", "1"), "--resume: the run in"),
        (("--pretrained", "no_such_file"), "no_such_file does not exist"),
    ):
        status, said = ranks(*EVERYTHING, *flags, name="cut")
        assert status == 2, said
        assert said.count(words) == 1
        assert "Traceback" not in said


def older(run):
    """Let a config be one of the version before, which knew fewer flags and choices."""
    config = json.loads((run / "config.json").read_text())
    for name in ("attribute", "pretrained_partial", "thin"):
        del config["settings"][name]
    known = ("precision", "channels_last", "reason", "checkpointing", "split", "threads")
    config["choices"] = {name: config["choices"][name] for name in known} | {"compiled": False}
    (run / "config.json").write_text(json.dumps(config))


def test_what_ranks_validate_with_is_what_is_saved(ranks, drawn, tmp_path):
    """Of batch norms each rank has statistics of its own, and so has the average."""
    status, said = ranks("--epochs", 1, "--ema", 0.9, "--batch_size", 4, name="run")
    assert status == 0, said
    predictions, validated = tables.read_predictions(tmp_path / "run")
    predictor = Predictor(tmp_path / "run", precision="fp32", layout="last")
    predicted = predictor.probabilities(predictions["path"].tolist())
    np.testing.assert_allclose(np.log(predicted), validated, atol=1e-3)


def test_an_error_of_one_rank_ends_the_others_without_a_traceback(ranks, monkeypatch):
    def broken(*arguments):
        if os.environ["RANK"] == "1":
            raise UserError("a photo has gone")
        return real(*arguments)

    real = train.total_loss
    monkeypatch.setattr(train, "total_loss", broken)
    status, said = ranks("--epochs", 1, "--batch_size", 4, name="run")
    assert status == 2, said
    assert said.count("a photo has gone") == 1
    assert "Traceback" not in said


def test_all_ranks_share_batch_norms_in_the_same_order(monkeypatch):
    for _ in range(20):
        shared, model, average = [], torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        monkeypatch.setattr(train, "distribute_bn", lambda each, _, to=shared: to.append(each))
        fabric, ema = SimpleNamespace(world_size=2), SimpleNamespace(module=average)
        train.share_batch_norms(SimpleNamespace(model=model, ema=ema, fabric=fabric))
        assert shared == [model, average]


def test_four_processes_train_folds(ranks, drawn, tmp_path):
    """Also 35 photos a rank, of which some are served twice."""
    flags = ("--folds", 2, "--epochs", 1, "--batch_size", 4)
    status, said = ranks(*flags, name="folds", count=4)
    assert status == 0, said
    predictions, _ = tables.read_predictions(tmp_path / "folds")
    assert sorted(predictions["path"]) == sorted(dataset.read_train(drawn / "train")["path"])
    status, said = ranks(*flags, "--resume", name="folds", count=2)
    assert status == 2
    assert "had --devices 4, now it is 2" in said


def test_two_processes_train_members(ranks, drawn, tmp_path):
    status, said = ranks("--members", 2, "--epochs", 1, "--batch_size", 4, name="members", count=2)
    assert status == 0, said
    assert "mean of 2 members" in said
    members = [tmp_path / "members" / f"member-{number}" for number in (0, 1)]
    one, two = (load_file(member / "best.safetensors") for member in members)
    assert not torch.equal(one["head.mask.weight"], two["head.mask.weight"])
    mean = tables.read_predictions(tmp_path / "members")[0]
    assert len(mean) == len(tables.read_predictions(members[1])[0])


def test_compilation_checkpointing_and_several_processes_go_together(
    ranks, monkeypatch, drawn, tmp_path
):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: real(model, backend="eager"))
    monkeypatch.setattr(startup.device, "compiles", lambda wish, *_, **__: wish == "yes")
    flags = "--model test_vit --resize 160 160 --epochs 1 --batch_size 8 --drop 0 --thin 1".split()
    status, said = ranks(*flags, name="plain")
    assert status == 0, said
    status, said = ranks(*flags, "--compile", "yes", "--checkpointing", "yes", name="compiled")
    assert status == 0, said
    assert "activation checkpointing, compiled" in said
    runs = [load_file(tmp_path / name / "best.safetensors") for name in ("plain", "compiled")]
    for name, tensor in runs[0].items():
        assert torch.allclose(tensor, runs[1][name], atol=1e-4), name


def test_other_ranks_hear_of_a_long_check_of_photos(monkeypatch):
    """They give up when they have waited for half an hour."""
    heard, args = threading.Semaphore(0), settings.parse(["--model", "resnet10t"])
    people = pd.DataFrame({"person": ["a"], "path": ["a.jpg"]})

    def broadcast(said):
        heard.release()
        return said

    def check(paths, _):
        for _ in range(3):  # what was read, and two words while it is being checked
            assert heard.acquire(timeout=60)
        return []

    monkeypatch.setattr(data, "POLL", 0.01)
    monkeypatch.setattr(data, "data_folder", lambda *_: ("train", "--data_dir"))
    monkeypatch.setattr(dataset, "read_train", lambda *_: people)
    monkeypatch.setattr(dataset, "check_photos", check)
    fabric = SimpleNamespace(is_global_zero=True, world_size=2, broadcast=broadcast)
    *_, refuse = data.read_photos(args, fabric)
    refuse()
