"""The time of an update: a small CNN's with each optimizer, beside its forward and backward."""

import statistics
import time

import torch

from training import settings
from training.optimizer import build_optimizer
from training.startup import build_model, input_choices

OPTIMIZERS = ("SGD", "AdamW", "LAMB")


def update_times(frame, device, half: str, tiny: bool, calls: int, repeats: int) -> dict:
    """Milliseconds of a forward and backward pass, "pass", and of an update by each optimizer.

    MobileNetV2 at 256 x 192, batch 32, random weights and pixels; `half` is fp16 or bf16. The
    median of `repeats` times of `calls`, after one that warms up.
    """
    name, size = ("test_efficientnet", 32) if tiny else ("mobilenetv2_100", 256)
    flags = f"--model {name} --pretrained no --freeze 0 --resize {size} {size * 3 // 4}".split()
    options = {name: settings.parse([*flags, "--optimizer", name]) for name in OPTIMIZERS}
    any_options = options[OPTIMIZERS[0]]
    model = build_model(any_options, input_choices(any_options, frame))
    model = model.to(device, memory_format=torch.channels_last).train()
    pixels = torch.randint(0, 256, (32, 3, *any_options.resize), dtype=torch.uint8)
    pixels = pixels.to(device, memory_format=torch.channels_last)

    def forward_and_backward():
        with torch.autocast(device.type, torch.float16 if half == "fp16" else torch.bfloat16):
            model(pixels)[:, 0].sum().backward()

    def milliseconds(function) -> float:
        times = []
        for _ in range(1 + repeats):
            begun = time.perf_counter()
            for _ in range(calls):
                function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - begun) / calls)
        return statistics.median(times[1:])

    figures = {"pass": milliseconds(forward_and_backward)}
    for name in OPTIMIZERS:
        optimizer = build_optimizer(model, options[name], fused=half != "fp16")
        figures[name] = milliseconds(optimizer.step)
    return figures
