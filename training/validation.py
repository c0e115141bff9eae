"""Validation: the held-out photos predicted and scored as inference would predict them."""

import copy

from core import device, memory, metrics, processes
from core.errors import UserError
from core.labels import CLASSES
from prediction.fold_batch_norms import fold_batch_norms
from prediction.predict import predict
from training.data import validation_loader


class Validation:
    """Calling it with a model gives its scores, log-probabilities (N, 18) and ages (N,) in years.

    The last are None for a head that predicts none.
    """

    def __init__(self, frame, args, plan, fabric, workers: int, cache: bool):
        self.frame, self.args, self.plan, self.fabric = frame, args, plan, fabric
        kind = fabric.device.type
        # What inference will use, unless the flag says otherwise.
        self.ages = args.head == "years" and args.attribute in (None, "age")
        automatic = args.precision == "auto"
        self.precision = device.inference_precision(kind) if automatic else args.precision
        self.concurrent = processes.at_a_time(kind, workers)
        batch_size = -(-args.valid_batch_size // self.concurrent)
        self.loader = validation_loader(frame, args, plan, fabric, batch_size, workers, cache)

    def __call__(self, model, watch=iter):
        """`watch` wraps the batches (training/stop.py)."""
        if self.fabric.device.type == "cpu":
            fold_batch_norms(model := copy.deepcopy(model))
        try:
            predictions = predict(
                model,
                self.loader,
                len(self.frame),
                self.fabric,
                self.plan.channels_last,
                self.args.tta,
                self.precision,
                self.concurrent,
                ages=self.ages,
                watch=watch,
            )
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            raise UserError(
                f"--valid_batch_size {self.args.valid_batch_size} does not fit in memory; lower "
                "it. The epoch is saved: continue with --resume"
            ) from None
        log_probabilities = predictions[:, :CLASSES]
        ages = predictions[:, CLASSES] if self.ages else None
        labels, ans = self.frame["label"].to_numpy(), log_probabilities.argmax(axis=1)
        return metrics.score(labels, ans, self.args.attribute), log_probabilities, ages
