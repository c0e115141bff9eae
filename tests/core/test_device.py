"""Work shared out over threads, memory that is kept."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from core import device, processes
from core.errors import UserError
from model import MaskClassifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_every_batch_is_worked_on_once_by_threads_that_share_what_pytorch_has(two_threads, ways):
    done, threads = [], set()
    together = threading.Barrier(ways)  # passed only where as many threads as `ways` are at work

    def work(batch, double):
        done.append((batch, double))
        threads.add((threading.get_ident(), torch.get_num_threads()))
        if batch < ways:
            together.wait(10)

    processes.share_out(((batch, 2 * batch) for batch in range(20)), work, ways)
    assert sorted(done) == [(batch, 2 * batch) for batch in range(20)]
    assert len(threads) == ways
    assert {count for _, count in threads} == {2 if ways == 1 else 1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("where", ["reading", "working"])
def test_an_error_ends_the_work_of_all_threads(two_threads, where):
    done = []

    def batches():
        for batch in range(1000):
            if where == "reading" and batch == 5:
                raise OSError("gone")
            yield (batch,)

    def work(batch):
        if where == "working" and batch == 5:
            raise OSError("gone")
        done.append(batch)

    with pytest.raises(OSError, match="gone"):
        processes.share_out(batches(), work, 2)
    assert len(done) < 1000
    assert torch.get_num_threads() == 2


def test_a_cpu_answers_two_batches_at_a_time_unless_it_has_one_thread_or_others_read(two_threads):
    assert (
        processes.at_a_time("cpu", 0),
        processes.at_a_time("cpu", 2),
        processes.at_a_time("cuda", 0),
    ) == (2, 1, 1)
    torch.set_num_threads(1)
    assert processes.at_a_time("cpu", 0) == 1


FAULTS = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
from core import device
from core import device, processes
if sys.argv[2] == "keep":
    device.keep_memory("cpu")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(30):
    if step == 10:
        before = faults()
    torch.ones(25_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_memory_that_is_kept_is_not_mapped_again():
    faults = {}
    for how in ("keep", "leave"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, ROOT, how], capture_output=True, text=True, check=True
        )
        faults[how] = int(done.stdout)
    pages = 25_000_000 * 4 // 4096
    assert faults["keep"] < pages / 10
    assert faults["leave"] > 10 * pages


@pytest.mark.parametrize(
    ("name", "there", "kind"),
    [
        *(("auto", [], "cpu"), ("auto", ["mps"], "mps"), ("auto", ["cuda"], "cuda")),
        *(("gpu", ["mps"], "mps"), ("gpu", ["cuda"], "cuda"), ("cpu", ["cuda"], "cpu")),
        *(("cuda", ["cuda"], "cuda"), ("cuda", [], None), ("gpu", [], None), ("mps", [], None)),
    ],
)
def test_an_accelerator_that_is_not_there_is_told_in_one_line(monkeypatch, name, there, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    if kind:
        assert device.accelerator(name) == kind
        return
    with pytest.raises(UserError, match=f"--accelerator {name}: .*; use auto or cpu"):
        device.accelerator(name)


class Asked:
    precision, layout, batch_size = "auto", "auto", 16


@pytest.mark.parametrize(
    ("seconds", "passes"), [(0.01, [(1, False)] * 4 + [(8, True)] * 12), (1, [(1, False)] * 8)]
)
def test_a_large_model_is_timed_on_forward_passes_of_one_photo(monkeypatch, seconds, passes):
    timings = []

    def timed(model, precision, channels_last, resize, count, training):
        timings.append((count, training))
        return seconds * (0.5 if (precision, channels_last) == ("bf16", False) else 1)

    monkeypatch.setattr(device, "_seconds", timed)
    choice = device.fastest(None, ["fp32", "bf16"], [True, False], (8, 8), 16, True)
    assert (choice.precision, choice.channels_last) == ("bf16", False)
    assert timings == passes


@pytest.mark.parametrize(
    ("convolutions", "stride", "training", "layouts"),
    [
        (1, 1, True, {True}),
        (2, 1, True, {True, False}),
        (2, 2, True, {False}),  # channels last would break memory there
        (2, 2, False, {True, False}),
    ],
)
def test_the_layout_is_timed_only_where_there_are_convolutions(
    monkeypatch, convolutions, stride, training, layouts
):
    seen = set()

    def timed(model, precision, channels_last, *more):
        seen.add(channels_last)
        return 0.01

    monkeypatch.setattr(device, "_seconds", timed)
    monkeypatch.setattr(device, "fit", lambda *more: None)
    convs = (torch.nn.Conv2d(3, 3, 1, stride) for _ in range(convolutions))
    device.choose(torch.nn.Sequential(*convs), "cpu", Asked, training, resize=(8, 8))
    assert seen == layouts


def test_the_operations_of_a_model_are_counted():
    from benchmarks.peak import flops

    model = MaskClassifier("test_efficientnet", resize=(32, 24))
    assert flops(model, (32, 24)) > 1e5
    assert flops(model, (64, 48)) > 3 * flops(model, (32, 24))
