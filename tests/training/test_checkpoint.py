"""last.ckpt on a GPU, which is played here."""

from types import SimpleNamespace

import pytest
import torch

from training.checkpoint import Checkpoint, State


@pytest.mark.parametrize(("later", "restored"), [("cuda", True), ("mps", False)])
def test_the_gpus_random_numbers_go_on_where_they_stopped(monkeypatch, tmp_path, later, restored):
    drawn, found = torch.arange(16, dtype=torch.uint8), []
    gpu = SimpleNamespace(get_rng_state=lambda: drawn, set_rng_state=found.append)
    monkeypatch.setattr(torch, "get_device_module", lambda device: gpu)

    def checkpoint(kind):
        fabric = SimpleNamespace(
            device=torch.device(kind), world_size=1, global_rank=0, is_global_zero=True
        )
        return Checkpoint(tmp_path, fabric, torch.nn.Identity())

    checkpoint("cuda").save(State(epoch=3, losses=[1.0]))
    assert checkpoint(later).restore() == State(epoch=3, losses=[1.0])
    assert [torch.equal(state, drawn) for state in found] == [True] * restored
