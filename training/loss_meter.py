"""The losses of an epoch, added up on the device."""

import math

import torch

from core.errors import UserError

# An update in fp16 whose gradient overflows is left out and the scale halved. It begins at 2**16:
# more overflows in a row than this are not the scale's.
OVERFLOWS_IN_A_ROW = 20


class LossMeter:
    """The loop waits for the device only where `read` is called.

    It also keeps where a loss or a gradient stopped being finite, and counts the updates that the
    scaler of fp16 left out. `add` and `check` take tensors and never wait.
    """

    def __init__(self, fabric, state: list[float], scaled: bool):
        self.fabric, self.scaled = fabric, scaled
        counter = torch.full((), -1, device=fabric.device)
        self.bad_loss, self.bad_gradient = counter, counter.clone()  # first steps; -1: none
        loss_sum, left_out, overflows, in_a_row = state or [0.0] * 4
        self.loss_sum = torch.tensor(loss_sum, device=fabric.device)
        self.left_out = counter + 1 + int(left_out)  # losses that are not in the sum
        self.overflows = counter + 1 + int(overflows)  # updates left out
        self.in_a_row = counter + 1 + int(in_a_row)  # of those, up to now
        self.worst = self.in_a_row

    def state(self) -> list[float]:
        """What an epoch that is resumed begins with; waits for the device."""
        return [
            tensor.item()
            for tensor in (self.loss_sum, self.left_out, self.overflows, self.in_a_row)
        ]

    def of_next_epoch(self) -> list[float]:
        """What the next epoch begins with: only overflows in a row go on."""
        return [0.0, 0.0, 0.0, self.in_a_row.item()]

    def add(self, loss, step: int) -> None:
        loss = loss.detach()
        finite = torch.isfinite(loss)
        if self.scaled:
            self.loss_sum += torch.where(finite, loss, 0.0)
            self.left_out += ~finite
        else:
            self.loss_sum += loss
            self.bad_loss = torch.where((self.bad_loss < 0) & ~finite, step, self.bad_loss)

    def check(self, gradient_norm, step: int) -> None:
        bad = ~torch.isfinite(gradient_norm)
        if self.scaled:
            self.overflows += bad
            self.in_a_row = torch.where(bad, self.in_a_row + 1, 0)
            self.worst = torch.maximum(self.worst, self.in_a_row)
            bad = self.worst > OVERFLOWS_IN_A_ROW
        self.bad_gradient = torch.where((self.bad_gradient < 0) & bad, step, self.bad_gradient)

    def read(self, step: int, epoch: int, photos, plan) -> float:
        """The mean loss up to and with `step`, over all ranks, which must call this together.

        UserError that names the photos if a loss or gradient was not finite.
        """
        counters = torch.stack([self.left_out, self.bad_loss, self.bad_gradient]).float()
        everywhere = self.fabric.all_gather(torch.cat([self.loss_sum[None], counters]))
        ranks = everywhere.reshape(-1, 4).tolist()
        for rank, (_, _, bad_loss, bad_gradient) in enumerate(ranks):
            if max(bad_loss, bad_gradient) < 0:
                continue
            last = int(bad_loss if bad_loss >= 0 else bad_gradient)
            first = last if bad_loss >= 0 else last - plan.accumulate + 1
            what = "loss" if bad_loss >= 0 else "gradient"
            names = ", ".join(photos.paths_of(epoch, first, last, rank))
            raise UserError(
                f"the {what} is not finite in step {last + 1} of epoch {epoch + 1}; lower --lr, "
                f"use --precision fp32, or look at the step's photos: {names}"
            )
        steps = sum(step + 1 - left_out for _, left_out, _, _ in ranks)
        return sum(loss_sum for loss_sum, *_ in ranks) / steps if steps else math.nan
