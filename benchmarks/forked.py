"""train.py by one rank or several, forked from this process: a start takes a tenth of the time,
since what train.py imports is imported once."""

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

from core.cli import run


class Forked:
    """As a Popen. Each rank has a session of its own, as torchrun's ranks have; where one fails,
    the others get SIGTERM, and SIGKILL 30 s later. What they print is in the file `output`."""

    def __init__(self, arguments: list[str], ranks: int, output: Path):
        self.output, self.status, self.failed_at = output, {}, None
        output.write_bytes(b"")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        sys.stdout.flush()
        gc.collect()  # loaders of earlier runs end their workers here, not in the forks
        self.ranks = []
        for rank in range(ranks):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    status = run_rank(arguments, rank, ranks, port, output)
                finally:
                    os._exit(status)
            self.ranks.append(pid)
        self.pid = self.ranks[0]

    @property
    def returncode(self) -> int:
        """The status of the rank that failed first."""
        return next((code for code in self.status.values() if code), 0)

    def poll(self) -> int | None:
        for pid in self.ranks:
            if pid not in self.status:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.status[pid] = os.waitstatus_to_exitcode(status)
        left = [pid for pid in self.ranks if pid not in self.status]
        if left and self.returncode:
            if self.failed_at is None:
                self.failed_at = time.monotonic()
                self.send(left, signal.SIGTERM)
            elif time.monotonic() - self.failed_at > 30:
                self.send(left, signal.SIGKILL)
        return None if left else self.returncode

    def send(self, ranks: list[int], number: signal.Signals) -> None:
        for pid in ranks:
            os.kill(pid, number)

    def communicate(self, timeout: float = 600) -> tuple[str, None]:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.output), timeout)
            time.sleep(0.01)
        return self.output.read_text(errors="replace"), None


def run_rank(arguments: list[str], rank: int, ranks: int, port: int, output: Path) -> int:
    """train.py's main in a fork; its exit status."""
    import train
    from core import processes, progress
    from training import data, settings

    os.setsid()
    multiprocessing.process._children.clear()  # the parent's
    with output.open("ab", 0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if ranks > 1:
        here = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks}
        here |= {"LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        here |= {"TORCHELASTIC_RUN_ID": "forked"}
        os.environ.update({name: str(value) for name, value in here.items()})
    processes.RANK = progress.RANK = rank
    sys.argv = ["train.py", *arguments]
    try:
        run(train.main, settings.parse_or_exit(arguments))
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    data._end_workers()  # what runs at the exit of other processes belongs to the parent
    sys.stdout.flush()
    sys.stderr.flush()
    return status
