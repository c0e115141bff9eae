"""Room for loader workers, whose batches pass through /dev/shm: 64 MB in a Docker container."""

import shutil

from core.errors import UserError

PREFETCH = 4  # batches that a worker prepares ahead
WAYS_OUT = "give the container more (docker run --shm-size 8g, or --ipc=host) or use --workers 0"


def free_shared_memory() -> int | None:
    """Free bytes in /dev/shm; None where there is no such folder."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def workers_that_fit(workers: int, batch_bytes: int, required: bool) -> int:
    """How many of `workers` have room for their batches, all ranks' batch being `batch_bytes`.

    Raises UserError if all are `required` and they have not.
    """
    free = free_shared_memory()
    if free is None or not workers:
        return workers
    each = (PREFETCH + 1) * batch_bytes
    fitting = min(workers, free // each)
    if fitting == workers:
        return workers
    need = f"{workers} loader workers need {workers * each / 1e6:,.1f} MB of /dev/shm"
    has = f"{free / 1e6:,.1f} MB is free"
    if required:
        raise UserError(f"--workers {workers}: {need}, {has}; {WAYS_OUT}")
    from core.progress import say  # which asks core.processes for the rank

    say(f"loader workers: {fitting} instead of {workers}, since {need} and {has}; {WAYS_OUT}")
    return fitting


def lacks_shared_memory(error: BaseException) -> bool:
    """Whether a loader worker failed because /dev/shm is full."""
    text = str(error)
    return "unable to allocate shared memory" in text or (
        "DataLoader worker" in text and "Bus error" in text
    )
