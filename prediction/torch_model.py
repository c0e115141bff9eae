"""A model file on its device: photos in, probabilities out."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.data import DataLoader

from core import device, processes
from core.errors import UserError
from core.progress import say
from prediction.fold_batch_norms import fold_batch_norms
from prediction.model_file import load_model
from prediction.photos import PhotoReader, blocks
from prediction.predict import predict, views_of

FEW = 1000  # photos: below, measuring the fastest layout takes longer than it saves


def start(name: str, devices: int):
    """Where models run, for a device such as "auto", "cpu", "cuda" or "cuda:1": the Fabric of a
    distributed run, else only what `predict` asks of it, since importing Fabric takes seconds.
    """
    name, _, index = name.partition(":")
    kind = device.accelerator(name)
    device.keep_memory(kind)
    if devices == 1 and "WORLD_SIZE" not in os.environ:
        return SimpleNamespace(
            device=torch.device(kind, int(index or 0) if kind == "cuda" else None),
            world_size=1,
            global_rank=0,
            is_global_zero=True,
            broadcast=lambda value: value,
        )
    from core.fabric import launch_ranks

    return launch_ranks(kind, [int(index)] if index else devices)


class Rows:
    """A sampler of `rows`, which the next block sets anew: the loader workers stay."""

    rows = range(0)

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


class TorchModel:
    """The model in a file, ready to predict under `options` (prediction.predictor.Options).

    `choice` is that of an earlier part of the same job; without it the fastest layout is measured.
    """

    def __init__(self, path, options, fabric, count: int, choice: dict | None = None):
        self.path, self.options, self.fabric = path, options, fabric
        self.kind = fabric.device.type
        self.model = model = load_model(path)
        self.description = model.description
        self.views = views_of(self.description, options.tta)
        if not options.offsets:
            model.offsets.zero_()
        fold_batch_norms(model)
        device.fuse_attention(model, self.kind, training=False)
        if choice:
            layout = "last" if choice["channels_last"] else "first"
            options = replace(options, precision=choice["precision"], layout=layout)
        resize = self.description["resize"]
        options = options.for_few() if count < FEW else options
        choice = device.choose(model, self.kind, options, training=False, resize=resize)
        self.choice = fabric.broadcast(choice)  # measured, so the first rank's holds
        if self.choice.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.to(fabric.device)
        passes = count * (1 + len(self.views))
        self.compiled = device.compiles(options.compile, self.kind, passes, worth=200_000)
        if self.compiled:
            self.model.compile()

    def measured(self) -> dict:
        """What another start must not measure anew, so that it gives the same bits."""
        return {"precision": self.choice.precision, "channels_last": self.choice.channels_last}

    def blocks(self, photos, mark_errors: bool, first: int, bar):
        """Yield (n, 18) of the next n photos from the row `first` on, on every rank."""
        loader, ways = self.loader(photos, mark_errors, len(photos) - first)
        world = self.fabric.world_size
        batch = loader.batch_size * ways * world
        for start, end in blocks(first - first % batch, len(photos), batch, self.fabric.broadcast):
            loader.sampler.rows = range(start + self.fabric.global_rank, end, world)
            log_probabilities = predict(
                self.model,
                loader,
                end - start,
                self.fabric,
                self.choice.channels_last,
                self.views,
                self.choice.precision,
                ways,
                start,
                watch=lambda batches: counted(batches, bar, world),
            )
            if np.isposinf(log_probabilities).any():
                raise UserError(f"{self.path}: its predictions are not numbers; train it again")
            yield np.exp(log_probabilities[max(0, first - start) :])

    def loader(self, photos, mark_errors: bool, count: int):
        """A DataLoader for `count` of the photos; how many batches are computed concurrently."""
        options = self.options
        description, size = self.description, options.batch_size
        workers = 0
        if count >= 4 * size:  # for fewer, starting processes takes longer than it saves
            batch_bytes = 3 * size * math.prod(description["resize"])
            workers = processes.readers(self.kind, options.workers, batch_bytes)
        ways = processes.at_a_time(self.kind, workers)
        threads = 1 if workers or ways > 1 else torch.get_num_threads()
        reader = PhotoReader(
            photos, description["resize"], description["crop"], mark_errors, threads
        )
        loader = DataLoader(
            reader,
            -(-size // ways),
            sampler=Rows(),
            pin_memory=self.kind == "cuda",
            **processes.loader_options(workers),
        )
        return loader, ways

    def say_what_was_done(self, speed: float) -> None:
        macro_f1 = self.description["macro_f1"]
        score = "no validation score"
        if macro_f1 is not None:
            score = f"validation macro-F1 {macro_f1:.4f}"
        say(
            f"{self.path}: {self.description['architecture']}, {score}; {speed:.0f} photos/s "
            f"on {self.kind} in {self.choice.precision}" + ", compiled" * self.compiled
        )


def counted(loader, bar, world: int):
    """The batches of a loader, counted by a progress bar for all ranks together."""
    for pixels, rows in loader:
        yield pixels, rows
        bar.update(len(rows) * world)
