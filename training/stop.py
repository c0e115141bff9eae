"""Ctrl-C and SIGTERM: all ranks save at the same update, then stop."""

import signal
import time
from pathlib import Path

import torch
from torch import distributed

from core.progress import say


class Stop:
    """While it is entered, Ctrl-C and SIGTERM ask the loop to save and stop at its next update.

    A second Ctrl-C stops at once; within a second of the first it is the same one, since torchrun
    passes on to its ranks what the terminal has already sent them.
    """

    def __init__(self, world_size: int):
        self.signal, self.since = None, 0.0
        # Flags travel beside the device's own collectives, so that no rank waits for its GPU.
        self.group = distributed.new_group(backend="gloo") if world_size > 1 else None
        self.pending = None

    def __enter__(self):
        handled = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number, _):
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.since > 1:
            raise KeyboardInterrupt

    def poll(self, save: bool = False) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any wants to `save`: agreed by all.

        All ranks must call this equally often. Several ranks get what was asked at the call
        before: the exchange runs while they compute.
        """
        mine = (self.signal is not None, save)
        if self.group is None:
            return mine
        before = self.pending
        flags = torch.tensor(mine, dtype=torch.int32)
        self.pending = flags, distributed.all_reduce(flags, group=self.group, async_op=True)
        if before is None:
            return False, False
        flags, exchange = before
        exchange.wait()
        return bool(flags[0]), bool(flags[1])

    def watch(self, batches, path: Path):
        """`batches`, as long as no rank is asked to stop; for loops that have nothing to save."""
        for batch in batches:
            if self.poll()[0]:
                self.leave(path)
            yield batch

    def leave(self, path: Path) -> None:
        """End this process; to be called on all ranks when everything is saved in `path`."""
        name = signal.Signals(self.signal).name if self.signal else "another process"
        say(
            f"\nstopped by {name}, all saved in {path}; continue with the same command and --resume"
        )
        raise SystemExit(128 + (self.signal or signal.SIGTERM))
