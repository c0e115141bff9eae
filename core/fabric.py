"""Lightning Fabric, imported in a fifth of the time: without torchmetrics.

Fabric asks for the version of torchmetrics, which imports it whole (with scipy and sympy), for one
class that is not used here.
"""

import logging
import os
import sys

import torch

from core.errors import UserError

blocked = sys.modules.setdefault("torchmetrics", None) is None  # None: cannot be imported
try:
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.plugins.precision import MixedPrecision as MixedPrecision
    from lightning_fabric.plugins.precision import Precision as Precision
finally:
    if blocked:
        del sys.modules["torchmetrics"]


def launched() -> tuple[str, int | None]:
    """What has started this process among others, and how many there are; None if nothing has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))  # 1: a shell, a batch script
    return "srun", tasks if tasks > 1 else None


def launch_ranks(accelerator: str, devices, nodes: int = 1) -> Fabric:
    """A Fabric with all its ranks started.

    `devices` is their number on this machine, or a list of one device. UserError if there are fewer
    or if torchrun or Slurm has started another number.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    count = devices if isinstance(devices, int) else len(devices)
    launcher, started = launched()
    if started not in (None, count * nodes):  # else each would train alone
        flags = f"--devices {count}" + f" --nodes {nodes}" * (nodes > 1)
        raise UserError(
            f"{flags}: {launcher} has started {started} processes; give both the same number"
        )
    if accelerator == "cuda" and count > (found := torch.cuda.device_count()):
        raise UserError(f"--devices {count}: PyTorch finds {found} here")
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes)
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        if "SLURM" not in str(error):
            raise
        raise UserError(f"--devices {count}: {' '.join(str(error).split())}") from None
    if fabric.world_size > 1:  # torchrun sets it; Slurm and Fabric's own launcher do not
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(fabric.world_size // nodes))
    return fabric
