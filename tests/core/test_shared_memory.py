"""Loader workers and compilers: what a machine may lack."""

import pytest

from core import device, processes, shared_memory
from core.cli import run
from core.errors import UserError

MB = 1_000_000


@pytest.fixture
def shm(monkeypatch):
    def set_free(free):
        monkeypatch.setattr(shared_memory, "free_shared_memory", lambda: free)

    monkeypatch.setattr(processes, "cores", lambda: 8)
    return set_free


def test_workers_are_as_many_as_shared_memory_has_room_for(shm, capsys, monkeypatch):
    shm(64 * MB)
    assert processes.readers("cuda", None, 4 * MB) == 3
    assert "3 instead of 8" in capsys.readouterr().out
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.readers("cuda", None, 4 * MB) == 1
    assert "1 instead of 4" in capsys.readouterr().out
    shm(1000 * MB)
    assert processes.readers("cuda", None, 4 * MB) == 4
    assert processes.readers("cuda", 20, 4 * MB) == 20
    shm(None)
    assert processes.readers("cuda", None, 4 * MB) == 4


def test_workers_asked_for_without_room_are_refused_with_both_ways_out(shm):
    shm(65_536)
    with pytest.raises(UserError, match=r"(?s)--workers 2: .*--shm-size.*--workers 0"):
        processes.readers("cpu", 2, 4 * MB)
    assert processes.readers("cpu", 0, 4 * MB) == 0


def test_shared_memory_that_runs_out_later_is_one_line(capsys):
    def main(args):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device"
        )

    with pytest.raises(SystemExit) as stop:
        run(main, None)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(error.splitlines()) == 1 and "--shm-size" in error and "--workers 0" in error


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not device.compiles("auto", "cuda", work=9, worth=1)
    for kind in ("cuda", "cpu"):
        with pytest.raises(UserError, match="needs a C compiler"):
            device.compiles("yes", kind, work=9, worth=1)
    (tmp_path / "gcc").touch(0o755)
    monkeypatch.setattr(device.sysconfig, "get_path", lambda _: str(tmp_path))  # headers of Python
    assert not device.compiles("auto", "cuda", work=9, worth=1)
    with pytest.raises(UserError, match=r"needs \S+Python.h.* python3-dev"):
        device.compiles("yes", "cuda", work=9, worth=1)
    (tmp_path / "Python.h").touch()
    assert device.compiles("auto", "cuda", work=9, worth=1)
    assert not device.compiles("auto", "cuda", work=1, worth=1)
