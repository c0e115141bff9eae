"""Lines and progress bars, printed by rank 0 alone."""

import sys

from core.processes import RANK


def say(line: str) -> None:
    """Print, once in a distributed run."""
    if RANK == 0:
        print(line, flush=True)


def progress(items, total, description, unit, first=RANK == 0, initial=0):
    """A progress bar on a terminal, silence elsewhere and on all processes but the first."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() or not first
    return tqdm(
        items,
        description,
        total,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
        disable=hidden,
        initial=initial,
    )
