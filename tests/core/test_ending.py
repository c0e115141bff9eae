"""How a process of a distributed run ends."""

import pytest
from torch import distributed

from core.cli import run
from core.errors import UserError


@pytest.mark.parametrize(("status", "waits"), [(0, 1), (2, 0)])
def test_the_process_group_is_ended_before_the_process(monkeypatch, tmp_path, status, waits):
    waited, barrier = [], distributed.barrier
    monkeypatch.setattr(distributed, "barrier", lambda: waited.append(barrier()))

    def main(args):
        store = distributed.FileStore(str(tmp_path / "store"), 1)
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        if status:
            raise UserError("as asked")
        return status

    with pytest.raises(SystemExit) as end:
        run(main, None)
    assert end.value.code == status
    assert not distributed.is_initialized()
    assert len(waited) == waits


def test_a_process_that_is_done_says_nothing_of_another_that_failed(monkeypatch):
    def barrier():
        raise RuntimeError("Connection closed by peer")

    ended = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "barrier", barrier)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: ended.append(True))
    with pytest.raises(SystemExit) as end:
        run(lambda args: 0, None)
    assert end.value.code == 0
    assert ended
