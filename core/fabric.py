"""Lightning Fabric, imported in a fifth of the time: without torchmetrics.

Fabric asks for the version of torchmetrics, which imports it whole (with scipy and sympy), for one
class that is not used here.
"""

import logging
import os
import sys

blocked = sys.modules.setdefault("torchmetrics", None) is None  # None: cannot be imported
try:
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.plugins.precision import MixedPrecision as MixedPrecision
    from lightning_fabric.plugins.precision import Precision as Precision
finally:
    if blocked:
        del sys.modules["torchmetrics"]


def launch_ranks(accelerator: str, devices, nodes: int = 1) -> Fabric:
    """A Fabric with all its ranks started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes)
    fabric.launch()
    if fabric.world_size > 1:  # torchrun sets it; Slurm and Fabric's own launcher do not
        os.environ.setdefault("LOCAL_WORLD_SIZE", str(fabric.world_size // nodes))
    return fabric
