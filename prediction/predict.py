"""From batches of photos to log-probabilities."""

import math

import numpy as np
import torch

from core import processes
from core.labels import CLASSES
from prediction import tta


def to_model(pixels, device, channels_last: bool):
    """A batch as the loader gives it, (B, H, W, 3) uint8 -> (B, 3, H, W) uint8 on the device, in the layout the model wants."""
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images if channels_last else images.contiguous()


def views_of(description: dict, wish=None) -> list[str]:
    """The views that an answer is averaged over besides the photo itself: `wish`, else those the model was validated with."""
    return description.get("tta", []) if wish is None else wish


@torch.inference_mode()
def predict(
    model, loader, size: int, fabric, channels_last: bool, views=(), precision=None, ways: int = 1
):
    """Log-probabilities (size, 18) float32 of all photos that `loader` serves as (pixels, row), averaged over `views`.

    In `precision` (fp32, bf16, fp16), else in the one that `fabric` was made with; `ways` batches at a time (processes.at_a_time).
    A row below 0 marks a photo that could not be read: its answer is nan. Where the model gives no numbers (fp16 overflows), all is
    answered again in fp32; what is no number there either is inf.
    Rows are put where they belong and gathered over all processes, so a photo counts once however the work is shared out.
    """
    model.eval()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    answers = torch.zeros(size, CLASSES, device=fabric.device)
    served = torch.zeros(size, 1, device=fabric.device)

    @torch.inference_mode()  # it holds for one thread alone
    def answer(pixels, rows):
        images = to_model(pixels, fabric.device, channels_last)
        rows = rows.to(fabric.device, non_blocking=True)
        with (
            torch.autocast(fabric.device.type, dtype, enabled=precision != "fp32")
            if precision
            else fabric.autocast()
        ):
            if views:
                images = images.float()
            seen = [model.log_probabilities(view) for view in tta.views(images, views)]
        unread = rows < 0
        rows = torch.where(unread, -1 - rows, rows)
        mean = torch.stack(seen).logsumexp(0) - math.log(len(seen))
        answers[rows] = mean.nan_to_num(torch.inf).masked_fill(unread[:, None], torch.nan)
        served[rows] = 1.0

    processes.share_out(loader, answer, ways)
    if fabric.world_size > 1:
        answers, served = (
            fabric.all_reduce(answers, reduce_op="sum"),
            fabric.all_reduce(served, reduce_op="sum"),
        )
    answers = (answers / served).cpu().numpy()
    if np.isposinf(answers).any() and precision != "fp32":
        return predict(model, loader, size, fabric, channels_last, views, "fp32", ways)
    return answers
