"""What a training step needs, what is free, and what is done where the one exceeds the other."""

from types import SimpleNamespace

import pytest
import torch

from core import device, memory
from core.errors import UserError
from model import MaskClassifier

ARGS = SimpleNamespace(
    model="test_vit", ema=0.0, batch_size=8, checkpointing="auto", resize=None, precision="fp32"
)


def vit(name="test_vit", size=160):
    return MaskClassifier(name, "joint", [size, size], [0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(("share", "checkpointing", "split"), [(9, False, 1), (0.6, True, 1)])
def test_a_step_is_made_to_fit(monkeypatch, share, checkpointing, split):
    """With the input size that was decided, whatever --resize says."""
    model, choice = vit(), device.Choice("fp32", True, "")
    fixed, photo = memory.step_bytes(model, "fp32", "cpu", ARGS, [160, 160], 1)
    monkeypatch.setattr(memory, "free_memory", lambda _: share * (fixed + 8 * photo))
    memory.fit(model, choice, ARGS, "cpu", [160, 160])
    assert (choice.checkpointing, choice.split) == (checkpointing, split)


def test_a_step_that_never_fits_names_the_flag(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: 1)
    with pytest.raises(UserError, match="--batch_size 8 needs about"):
        memory.fit(vit(), device.Choice("fp32", True, ""), ARGS, "cpu", [160, 160])


def test_checkpointing_asked_of_a_model_that_refuses_is_told():
    model, args = vit("vgg11", 32), SimpleNamespace(**{**vars(ARGS), "checkpointing": "yes"})
    with pytest.raises(UserError, match="--checkpointing: timm's test_vit cannot"):
        memory.fit(model, device.Choice("fp32", True, ""), args, "cpu", [32, 32])


def test_several_ranks_need_buckets_and_half_precision_copies_of_weights_are_no_activations():
    model = vit()
    weights = 4 * sum(p.numel() for p in model.parameters())
    alone, photo = memory.step_bytes(model, "bf16", "cpu", ARGS, [160, 160], 1)
    together, _ = memory.step_bytes(model, "bf16", "cpu", ARGS, [160, 160], 2)
    assert together - alone == weights
    assert photo < memory.step_bytes(model, "fp32", "cpu", ARGS, [160, 160], 1)[1]


GROUPS = {
    "v2": ("", "memory.max", "memory.current", "inactive_file"),
    "v1": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


@pytest.mark.parametrize("version", GROUPS)
def test_a_containers_page_cache_counts_as_free(tmp_path, version, monkeypatch):
    folder, limit, used, cache = GROUPS[version]
    group = tmp_path / "sys" / "fs" / "cgroup" / folder
    group.mkdir(parents=True)
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8000 << 10)
    )
    assert memory.available_memory(tmp_path) == 8000 << 10
    (group / limit).write_text("4000000\n")
    (group / used).write_text("3999999\n")
    (group / "memory.stat").write_text(f"anon 12\n{cache} 1500000\n")
    assert memory.available_memory(tmp_path) == 1_500_001
    (group / limit).write_text("max\n")
    assert memory.available_memory(tmp_path) == 8000 << 10


@pytest.mark.parametrize("version", GROUPS)
@pytest.mark.parametrize("limited", ["slurm/job_5/step_0", "slurm/job_5", ""])
def test_the_limit_of_a_job_or_of_any_group_above_it_holds(tmp_path, version, limited, monkeypatch):
    folder, limit, used, _ = GROUPS[version]
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=8000 << 10)
    )
    (tmp_path / "proc" / "self").mkdir(parents=True)
    line = f"0::{'/slurm/job_5/step_0' if version == 'v2' else '/'}\n"
    line += "4:memory:/slurm/job_5/step_0\n" if version == "v1" else ""
    (tmp_path / "proc" / "self" / "cgroup").write_text("12:cpu,cpuacct:/slurm\n" + line)
    group = tmp_path / "sys" / "fs" / "cgroup" / folder / limited
    group.mkdir(parents=True)
    for name, content in ((limit, "4000000"), (used, "1000000"), ("memory.stat", "anon 12")):
        (group / name).write_text(content + "\n")
    assert memory.available_memory(tmp_path) == 3_000_000


def test_ranks_share_main_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    assert memory.free_memory("cpu") == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.free_memory("cpu") == 250


def test_every_rank_fills_a_cache_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * 3_000_000)
    assert memory.cache_fits(1000, (20, 50), "auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not memory.cache_fits(1000, (20, 50), "auto")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_every_librarys_words_for_too_little_memory_are_known(text):
    assert memory.is_out_of_memory(RuntimeError(text))
    assert not memory.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def test_activation_checkpointing_gives_the_same_loss_and_gradients():
    model = vit()
    images, results = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8), []
    for checkpointing in (False, True):
        assert memory.set_checkpointing(model, checkpointing)
        model.zero_grad()
        loss = model(images).square().sum()
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(*pair) for pair in zip(results[0][1], results[1][1], strict=True))
