"""Cores, ranks, loader workers and threads."""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from core.errors import UserError
from core.shared_memory import PREFETCH, workers_that_fit


def cores() -> int:
    """Cores this process may use; schedulers and containers may give fewer than there are."""
    import joblib  # scikit-learn's; it also knows the quota of a container

    return joblib.cpu_count()


def _cores_and_times() -> tuple[int, float, float, float]:
    """Cores of the machine that this process may run on; seconds, counted in hundredths.

    The seconds are those of the clock, those of the processor time of all processes on these cores,
    and those of this one's.
    """
    every = dict(enumerate(psutil.cpu_times(percpu=True)))
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else every
    each = [every[core] for core in mine if core in every]
    busy = sum(core.user + core.system + getattr(core, "nice", 0) for core in each)
    return len(each), time.perf_counter(), busy, sum(os.times()[:4])


BEGUN = _cores_and_times()


def threads_for(training: bool) -> int:
    """PyTorch threads on the CPU: those of OMP_NUM_THREADS, else one for each core it may use.

    Training alone takes only as many as other processes have left free since this one began: each
    of its steps waits for its slowest thread, so two jobs that share cores lose more than half
    (docs/speed.md). Inference keeps its number, and with it the bits of its predictions.
    """
    import torch

    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return threads
    threads = min(threads, cores())
    count, *now = _cores_and_times()
    seconds, busy, own = (later - then for later, then in zip(now, BEGUN[1:], strict=True))
    if not training or seconds < 1:  # too short to tell
        return threads
    return max(1, min(threads, round(count - (busy - own) / seconds)))


# of this process in a distributed run
RANK = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def local_ranks() -> int:
    """Ranks of this run on this machine, which share its cores and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def readers(device: str, wish: int | None, batch_bytes: int) -> int:
    """Loader workers of this rank: `wish`, else one a core, up to 16, for a GPU, fewer for a CPU.

    The ranks of a machine share its cores. With two cores each a CPU has none, since they would
    take the model's time. Batches of `batch_bytes` must fit in shared memory; UserError if `wish`
    is more than that allows.
    """
    ranks = local_ranks()
    mine = max(1, cores() // ranks)
    workers = min(16, mine) if device != "cpu" else 0 if mine <= 2 else min(4, mine // 4)
    workers = workers if wish is None else wish
    return workers_that_fit(workers, ranks * batch_bytes, required=wish is not None)


def loader_options(workers: int) -> dict:
    """A DataLoader's arguments for `workers`.

    They are forked where that is safe. By default Python 3.14 has a process of its own fork them,
    which a SIGTERM to the process group ends, before the run has saved.
    """
    if not workers:
        return {}
    return {
        "num_workers": workers,
        "persistent_workers": True,
        "prefetch_factor": PREFETCH,
        "multiprocessing_context": "fork" if sys.platform == "linux" else None,
    }


def at_a_time(device: str, workers: int) -> int:
    """Concurrent batches of inference: two on a CPU of several cores without loader workers.

    One is then read while the other is computed.
    """
    import torch

    return 2 if device == "cpu" and not workers and torch.get_num_threads() > 1 else 1


def share_out(batches, work, ways: int) -> None:
    """Call `work(*batch)` for every batch, in `ways` threads that share PyTorch's threads."""
    import torch

    if ways == 1:
        for batch in batches:
            work(*batch)
        return
    batches, turn, stop, threads = (
        iter(batches),
        threading.Lock(),
        threading.Event(),
        torch.get_num_threads(),
    )

    def worker():
        torch.set_num_threads(max(1, threads // ways))  # of this thread
        try:
            while not stop.is_set():
                with turn:
                    batch = next(batches, None)
                if batch is None:
                    return
                work(*batch)
        finally:
            stop.set()  # after an error no other batch is started

    with ThreadPoolExecutor(ways) as pool:
        try:
            for job in [pool.submit(worker) for _ in range(ways)]:
                job.result()
        finally:
            stop.set()
            torch.set_num_threads(threads)


def on_rank_zero(fabric, function, *arguments):
    """`function(*arguments)`, computed on rank 0 and broadcast; all ranks must call this together.

    A UserError there ends all ranks; rank 0 alone reports it.
    """
    from torch import distributed

    result = error = None
    if fabric.is_global_zero:
        try:
            result = function(*arguments)
        except UserError as caught:
            error = caught
    if fabric.world_size > 1:
        result, failed = fabric.broadcast((result, error is not None))
        if failed:  # together: a rank whose peer is gone is aborted
            distributed.barrier()
            distributed.destroy_process_group()
        if failed and error is None:
            time.sleep(1)  # torchrun ends rank 0 as soon as another rank has ended
            raise SystemExit(2)
    if error is not None:
        raise error
    return result


def lost_a_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank has ended: in gloo's words or NCCL's."""
    words = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
    return any(text in str(error) for text in words)
