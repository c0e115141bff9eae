"""Lightning Fabric, imported in a fifth of the time: without torchmetrics.

Fabric asks for the version of torchmetrics, which imports it whole (with scipy and sympy), for one
class that is not used here.
"""

import sys

blocked = sys.modules.setdefault("torchmetrics", None) is None  # None: cannot be imported
try:
    from lightning_fabric import Fabric as Fabric
    from lightning_fabric.plugins.precision import MixedPrecision as MixedPrecision
    from lightning_fabric.plugins.precision import Precision as Precision
finally:
    if blocked:
        del sys.modules["torchmetrics"]
