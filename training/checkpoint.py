"""last.ckpt: everything that the rest of a run depends on."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import distributed

from core.errors import UserError, first_line
from core.files import atomic
from core.processes import on_rank_zero


@dataclass
class State:
    """Where a run stands, between two updates; the same on all ranks but for `losses`."""

    epoch: int = 0  # epochs that are trained
    step: int = 0  # steps of the next epoch that are done
    rows: list[dict] = field(default_factory=list)  # of metrics.csv
    best: dict = field(default_factory=dict)
    validated: bool = True  # False: the last epoch is trained, and not validated yet
    finished: bool = False
    losses: list[float] = field(default_factory=list)  # of those steps (LossMeter.state)


class Checkpoint:
    """Saves and restores a State with all that it stands for.

    Data order, augmentation and mixing are not in it: they are functions of seed, epoch and photo.
    """

    def __init__(self, path: Path, fabric, criterion, **parts):
        self.path, self.fabric, self.criterion, self.parts = path, fabric, criterion, parts

    def save(self, state: State) -> None:
        """Write last.ckpt; all ranks must call this together."""
        content = asdict(state)
        mine = {
            "losses": content.pop("losses"),
            "random": torch.get_rng_state(),
            "device": self.fabric.device.type,
            "device_random": _device_random(self.fabric.device),
            "criterion": {
                name: tensor.cpu() for name, tensor in self.criterion.state_dict().items()
            },
        }
        ranks = [mine]
        if self.fabric.world_size > 1:
            ranks *= self.fabric.world_size
            distributed.all_gather_object(ranks, mine)

        def write():
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            save_checkpoint(self.path, **content, **parts, ranks=ranks)

        on_rank_zero(self.fabric, write)

    def restore(self) -> State:
        """The State in last.ckpt, its parts loaded; UserError if it cannot be read."""
        stored = load_checkpoint(self.path)
        for name, part in self.parts.items():
            part.load_state_dict(stored[name])
        if "ranks" not in stored:  # written before version 1.1
            stored["ranks"] = [
                {"losses": [total, 0, 0, 0], "random": stored["random"]}
                for total in stored["total"]
            ]
        mine = stored["ranks"][self.fabric.global_rank]
        torch.set_rng_state(mine["random"])
        same_device = mine.get("device", "cuda") == self.fabric.device.type
        if mine.get("device_random") is not None and same_device:
            torch.get_device_module(self.fabric.device).set_rng_state(mine["device_random"])
        self.criterion.load_state_dict(mine.get("criterion", {}), strict=False)
        known = {name: stored[name] for name in State.__dataclass_fields__ if name in stored}
        return State(**known, losses=mine["losses"])


def _device_random(device: torch.device):
    """The state of the GPU's random number generator, which draws dropout there."""
    return None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()


def save_checkpoint(path: Path, **content) -> None:
    """Write `content` (tensors, numbers, text, lists, dictionaries) to last.ckpt, atomically."""
    with atomic(path / "last.ckpt") as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # PyTorch's own words for a full disk
            raise OSError(f"is the disk full? {first_line(error)}") from None


def load_checkpoint(path: Path) -> dict:
    """What last.ckpt holds; UserError if it is broken or would run code."""
    file = path / "last.ckpt"
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"--resume: {file} cannot be read ({type(error).__name__}); put one that --keep has "
            "kept (epoch-N.ckpt) in its place, or start the run without --resume"
        ) from None
