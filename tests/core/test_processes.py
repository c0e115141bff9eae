"""How many threads and loader workers a process gets."""

import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from core import processes
from core.folders import ROOT


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores, of which others used `others` for the `seconds` since the start."""

    def set_up(others=0.0, seconds=5.0, quota=4):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        monkeypatch.setattr("joblib.cpu_count", lambda: quota)
        monkeypatch.setattr(processes, "BEGUN", (4, 100.0, 1000.0, 7.0))
        busy = seconds * (others + 1)  # itself: one core
        now = (4, 100.0 + seconds, 1000.0 + busy, 7.0 + seconds)
        monkeypatch.setattr(processes, "_cores_and_times", lambda: now)

    return set_up


@pytest.mark.parametrize(
    "others, threads", [(0, 4), (0.4, 4), (0.6, 3), (1, 3), (2.1, 2), (3.9, 1), (4, 1), (9, 1)]
)
def test_training_takes_the_threads_that_others_leave_it_and_one_at_least(machine, others, threads):
    machine(others)
    assert processes.threads_for(training=True) == threads
    assert processes.threads_for(training=False) == 4


def test_the_quota_of_a_container_counts_and_a_start_too_short_to_tell_does_not(machine):
    machine(others=2, quota=2)  # two of the four are free
    assert [processes.threads_for(training) for training in (True, False)] == [2, 2]
    machine(others=3, seconds=0.5)
    assert processes.threads_for(training=True) == 4


def test_the_users_own_number_of_threads_holds(machine, monkeypatch):
    machine(others=3, quota=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [processes.threads_for(training) for training in (True, False)] == [4, 4]


def test_what_this_process_computes_is_its_own_and_not_that_of_others():
    count, clock, busy, own = processes._cores_and_times()
    while processes._cores_and_times()[3] < own + 1:
        sum(range(10_000))
    later = processes._cores_and_times()
    assert count == later[0] == len(os.sched_getaffinity(0))
    assert later[1] > clock and later[2] - busy >= 0.9


def test_ranks_started_without_torchrun_know_how_many_share_the_machine(tmp_path):
    """Else each takes all cores for its loader workers, and all memory for its photos."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os\nfrom core import fabric, processes\n"
        "rank = fabric.launch_ranks('cpu', 2).global_rank\n"
        "os.write(1, f'rank {rank} of {processes.local_ranks()}\\n'.encode())\n"  # in one piece
    )
    environment = {name: text for name, text in os.environ.items() if "LOCAL_WORLD" not in name}
    said = subprocess.run(
        [sys.executable, script],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(said.split("\n")[:2]) == ["rank 0 of 2", "rank 1 of 2"]


def started(devices, nodes, **environment):
    """What launch_ranks says in a process that torchrun or Slurm has started."""
    launch = f"lambda _: fabric.launch_ranks('cpu', {devices}, {nodes})"
    code = f"from core import cli, fabric; cli.run({launch}, None)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "told"),
    [
        (1, 1, {"WORLD_SIZE": "2"}, "--devices 1: torchrun has started 2 processes"),
        (2, 2, {"WORLD_SIZE": "2"}, "--devices 2 --nodes 2: torchrun has started 2 processes"),
        (1, 1, {"SLURM_STEP_NUM_TASKS": "4"}, "--devices 1: srun has started 4 processes"),
        (2, 1, {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "a"}, "--ntasks-per-node=2"),
    ],
)
def test_a_launcher_that_starts_another_number_of_processes_is_refused(
    devices, nodes, environment, told
):
    """They would train alone, each of them, and write the same files."""
    if "WORLD_SIZE" in environment:
        environment |= {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0"}
    status, said = started(devices, nodes, **environment)
    assert status == 2, said
    assert told in said and len(said.splitlines()) == 1


class Parent(torch.utils.data.Dataset):
    """Serves the process that started the loader worker."""

    def __len__(self):
        return 2

    def __getitem__(self, _):
        return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_no_other_process_stands_between_a_run_and_its_loader_workers(monkeypatch):
    """From Python 3.14 on a server forks them; a signal to the process group ends it."""
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)
    multiprocessing.set_start_method("forkserver")
    loader = torch.utils.data.DataLoader(Parent(), **processes.loader_options(1))
    assert {int(parent) for parent in loader} == {os.getpid()}


@pytest.mark.parametrize("count, ranks, workers", [(16, 8, 2), (96, 8, 12), (4, 8, 1), (40, 1, 16)])
def test_the_ranks_of_a_machine_share_its_cores(monkeypatch, count, ranks, workers):
    monkeypatch.setattr(processes, "cores", lambda: count)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert processes.readers("cuda", None, 1) == workers
