"""What a model computes, and what a device could: together the MFU (model FLOPs utilisation:
Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311), here of a measured peak instead of the
data sheet's.
"""

import copy
import time

import torch


def flops(model, resize) -> float:
    """FLOP of one forward pass on one photo; a training step takes three times as many."""
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(model).to("meta").eval()  # shapes without numbers: nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros((1, 3, *resize), dtype=torch.uint8, device="meta"))
    return counter.get_total_flops()


def ceiling(device, precision: str) -> float:
    """FLOP/s of a large matrix product on `device`: the best of ten."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
