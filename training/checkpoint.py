"""last.ckpt: the state that a run resumes from."""

from pathlib import Path

import torch

from core.errors import UserError, first_line
from core.files import atomic


def save_checkpoint(path: Path, **state) -> None:
    """Write `state` (tensors, numbers, text, lists, dictionaries) to last.ckpt, atomically."""
    with atomic(path / "last.ckpt") as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # PyTorch's own words for a disk that is full
            raise OSError(f"is the disk full? {first_line(error)}") from None


def load_checkpoint(path: Path) -> dict:
    """What last.ckpt holds; UserError if it is broken or would run code."""
    try:
        return torch.load(path / "last.ckpt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"--resume: {path / 'last.ckpt'} cannot be read ({type(error).__name__}); put one that --keep has kept "
            "(epoch-N.ckpt) in its place, or start the run without --resume"
        ) from None


def save(path, fabric, parts, state) -> None:
    """last.ckpt: all that the rest of the run depends on. Orders and augmentations are functions of seed, epoch and photo."""
    if fabric.is_global_zero:
        save_checkpoint(
            path,
            **state,
            random=torch.get_rng_state(),
            **{name: item.state_dict() for name, item in parts.items()},
        )
    fabric.barrier()


def restore(path, state, parts) -> dict:
    stored = load_checkpoint(path)
    for name, item in parts.items():
        item.load_state_dict(stored[name])
    torch.set_rng_state(stored["random"])
    return {key: stored[key] for key in state}
