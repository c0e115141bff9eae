"""Ctrl-C and SIGTERM: save, then stop."""

import signal
from pathlib import Path

import torch

from core.progress import say


def agreed(wish: bool, fabric) -> bool:
    """Whether any of the processes wishes it: what one of them does alone at a barrier, the others wait for until they are killed."""
    if fabric.world_size == 1:
        return wish
    return (
        fabric.all_reduce(torch.tensor(float(wish), device=fabric.device), reduce_op="sum").item()
        > 0
    )


class Stop:
    """Ctrl-C and SIGTERM ask the loop to save and stop at its next update; a second Ctrl-C stops at once."""

    def __init__(self):
        self.asked, self.name, self.status = False, "", 0
        self.before = {
            number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def __call__(self, number, _):
        self.asked, self.name, self.status = True, signal.Signals(number).name, 128 + number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def obey(self, path: Path, fabric) -> None:
        """End all processes if one was asked to; to be called when all is saved."""
        if agreed(self.asked, fabric):
            say(
                f"\nstopped by {self.name or 'another process'}, all saved in {path}; go on with the same command and --resume"
            )
            raise SystemExit(self.status or 128 + signal.SIGTERM)

    def forget(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)
