"""From batches of photos to log-probabilities: what validation and inference share."""

import math

import numpy as np
import torch

from core import processes
from core.labels import CLASSES
from core.memory import is_out_of_memory
from prediction import tta
from prediction.memory_limit import Halving


def to_model(pixels, device, channels_last: bool):
    """A batch (B, H, W, 3) uint8 as (B, 3, H, W) on the device, in the layout the model wants."""
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def views_of(description: dict, wish=None) -> list[str]:
    """The test-time augmentations: `wish`, else those the model was validated with."""
    return description.get("tta", []) if wish is None else wish


@torch.inference_mode()
def predict(
    model,
    loader,
    size,
    fabric,
    channels_last,
    views=(),
    precision="fp32",
    ways=1,
    first=0,
    ages=False,
    watch=iter,
):
    """Log-probabilities (size, 18) float32 of all photos that `loader` serves as (pixels, row).

    With `ages` there is one more column (size, 19): the age in years that a years head predicts.
    All are averaged over the test-time augmentations `views`. `precision` is fp32, bf16 or fp16;
    `ways` batches are computed concurrently (processes.at_a_time). Rows start at `first`; -1 - row
    marks a photo that could not be read: its prediction is nan. Where fp16 overflows, all is
    predicted again in fp32; what is no number there is inf. Batches that do not fit in memory are
    halved. Rows are put where they belong and gathered over all ranks, so a photo counts once
    however the work is shared. `watch` wraps the batches each time that `loader` serves them.
    """
    model.eval()
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    device = fabric.device
    predictions = torch.zeros(size, CLASSES + ages, device=device)
    predicted = model.log_probabilities_and_age if ages else model.log_probabilities
    served = torch.zeros(size, 1, device=device)

    def forward(images):
        with torch.autocast(device.type, dtype, enabled=precision != "fp32"):
            images = images.float() if views else images
            seen = torch.stack([predicted(view) for view in tta.views(images, views)])
        mean = seen[..., :CLASSES].logsumexp(0) - math.log(len(seen))
        return torch.cat([mean, seen[..., CLASSES:].mean(0)], 1) if ages else mean

    fitting = Halving(forward, torch.cat, is_out_of_memory)

    @torch.inference_mode()  # it holds for one thread alone
    def predict_batch(pixels, rows):
        mean = fitting(to_model(pixels, device, channels_last))
        rows = rows.to(device, non_blocking=True)
        unread = rows < 0
        rows = torch.where(unread, -1 - rows, rows) - first
        predictions[rows] = mean.nan_to_num(torch.inf).masked_fill(unread[:, None], torch.nan)
        served[rows] = 1.0

    processes.share_out(watch(loader), predict_batch, ways)
    if fabric.world_size > 1:
        predictions = fabric.all_reduce(predictions, reduce_op="sum")
        served = fabric.all_reduce(served, reduce_op="sum")
    predictions = (predictions / served).cpu().numpy()
    if np.isposinf(predictions).any() and precision != "fp32":
        common = (fabric, channels_last, views, "fp32", ways, first, ages, watch)
        return predict(model, loader, size, *common)
    return predictions
