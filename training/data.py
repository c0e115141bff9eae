"""The photos a run trains on and validates on, and their loaders."""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

import dataset
from core import memory, processes
from core.errors import UserError
from core.folders import data_folder
from core.labels import CLASSES, encode
from core.processes import on_rank_zero
from core.progress import progress, say
from model import YEARS
from training.augmentation import augmentation
from training.split import sampling_weights, thin


@dataclass(frozen=True)
class Data:
    """All photos of a run with their labels, its people's folds, and the folder they come from."""

    frame: pd.DataFrame
    split: pd.DataFrame
    source: Path
    check: Callable[[], None] = lambda: None


def read_photos(args, fabric) -> tuple[pd.DataFrame, Path, Callable[[], None]]:
    """The frame of photos, the folder it was read from, and a function for all ranks to call
    before training; says what was found.

    Photos are checked while the model is fetched and built. The function waits for that and raises
    UserError for broken ones; with --on_error skip they are left out of the frame instead.
    """

    def read():
        source, why = data_folder(args.data_dir, "train")
        return dataset.read_train(source, args.corrections, args.recursive == "yes"), source, why

    frame, source, why = on_rank_zero(fabric, read)  # two ranks can see different things
    people = frame["person"].nunique()
    say(f"data: {len(frame):,} photos of {people:,} people in {source} ({why})")
    if args.check_photos == "no" and args.on_error == "fail":
        return frame, source, lambda: None

    def bar(results):
        return progress(results, len(frame), "checking photos", "photo")

    if fabric.is_global_zero:
        found = in_background(dataset.check_photos, frame["path"], bar)

    def unreadable():
        return on_rank_zero(fabric, lambda: found())

    if args.on_error == "skip":
        return leave_out(frame, unreadable()), source, lambda: None
    return frame, source, lambda: refuse(frame, unreadable())


def in_background(function, *arguments) -> Callable:
    """Start `function` in a daemon thread, which the end of the process does not wait for.

    Calling what is returned waits for the result.
    """
    result = Future()

    def work():
        try:
            result.set_result(function(*arguments))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return result.result


def refuse(frame: pd.DataFrame, bad: list) -> None:
    """UserError if there are `bad` photos."""
    _check_some_are_good(frame, bad)
    if bad:
        raise UserError(
            f"{len(bad):,} of {len(frame):,} photos cannot be used: {_first(bad)}. Fix or remove "
            "them, or leave them out with --on_error skip"
        )


def leave_out(frame: pd.DataFrame, bad: list) -> pd.DataFrame:
    """The frame without its `bad` photos; UserError if none is left."""
    _check_some_are_good(frame, bad)
    if bad:
        say(
            f"warning: left out {len(bad):,} of {len(frame):,} photos that cannot be read: "
            + _first(bad)
        )
    return dataset.without(frame, bad)


def _check_some_are_good(frame: pd.DataFrame, bad: list) -> None:
    if len(bad) == len(frame):
        raise UserError(f"no photo can be read, first {_first(bad)}")


def _first(bad: list) -> str:
    return "; ".join(map(str, bad[:5])) + (f"; and {len(bad) - 5:,} more" if len(bad) > 5 else "")


def part(data: Data, fold: int, args) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The photos to train on and to validate on; only the former are thinned or lose ages."""
    frame, split = data.frame, data.split
    held_out = frame["person"].isin(split["person"][split["fold"] == fold])
    train, val = frame[~held_out], frame[held_out].reset_index(drop=True)
    for first, last in args.drop_ages or []:
        train = train[~train["age"].between(first, last)]
    train = thin(train.reset_index(drop=True), args.thin, args.seed)
    if train.empty:
        raise UserError("no photo is left to train on; look at --drop_ages, --split and --fold")
    if val.empty and (args.val_ratio or args.folds):
        raise UserError(
            f"nobody is left to validate on in fold {fold}; look at --val_ratio, --split and --fold"
        )
    weights = sampling_weights(train["label"].to_numpy(), args.sampling)
    if args.thin or args.drop_ages or weights is not None:
        say(f"photos in an epoch, of all:      {tally(frame[~held_out]['label'])}")
        say(f"photos in an epoch, as sampled:  {tally(train['label'], weights)}")
    return train, val


def tally(labels, weights=None) -> str:
    """Photos by the values of each attribute as text; with `weights`, an epoch's average draws."""
    weights = None if weights is None else weights * len(labels)
    return by_attribute(np.bincount(labels, weights, CLASSES), np.sum, ",.0f")


def by_attribute(values, reduce, form: str) -> str:
    """Values of the 18 classes, reduced to one for each mask, gender and age, as text."""
    table = np.reshape(values, (3, 2, 3))
    return "; ".join(
        f"{name} " + " / ".join(f"{value:{form}}" for value in reduce(table, axis=axes))
        for name, axes in (("mask", (1, 2)), ("gender", (0, 2)), ("age", (0, 1)))
    )


class TrainingPhotos:
    """This rank's share of the training photos: their batches, and what a row of a batch is.

    Pixels travel as uint8 with their row; labels and ages wait on the device.
    """

    def __init__(self, frame, args, plan, fabric, workers: int, cache: bool):
        self.paths, self.seed, self.batch_size = frame["path"], args.seed, plan.batch_size
        self.weights = sampling_weights(frame["label"].to_numpy(), args.sampling)
        self.ranks = fabric.world_size
        steps = augmentation(args.augmentation, size=tuple(plan.resize))
        photos = dataset.Photos(frame["path"], plan.resize, args.crop, steps, args.seed, cache)
        self.sampler = self._sampler(fabric.global_rank)
        self.loader = build_loader(
            photos,
            self.sampler,
            plan.batch_size,
            workers,
            fabric.device,
            drop_last=len(self.sampler) >= plan.batch_size,
        )
        labels = encode(frame["mask"], frame["gender"], frame["age"], args.bands)
        self.labels = torch.tensor(labels.to_numpy(copy=True), device=fabric.device)
        self.ages = torch.tensor(frame["age"].to_numpy(copy=True), device=fabric.device)
        self.top_age = min(int(frame["age"].max()), YEARS - 1)
        self.masks = frame["mask"].to_numpy()

    def _sampler(self, rank: int):
        size = len(self.paths)
        return dataset.EpochSampler(size, self.seed, self.weights, rank=rank, ranks=self.ranks)

    def batches(self, epoch: int, first_step: int):
        """The batches (pixels, rows) of an epoch from a step on."""
        self.sampler.epoch, self.sampler.start = epoch, first_step * self.batch_size
        return self.loader

    def paths_of(self, epoch: int, first_step: int, last_step: int, rank: int) -> list[str]:
        """The photos of some steps of a rank, the last step included."""
        order = self._sampler(rank).of_epoch(epoch)
        order = order[first_step * self.batch_size : (last_step + 1) * self.batch_size]
        return [str(self.paths.iloc[row]) for _, row, _ in order]


def validation_loader(frame, args, plan, fabric, batch_size: int, workers: int, cache: bool):
    """The loader of this rank's share of the photos to validate on."""
    photos = dataset.Photos(frame["path"], plan.resize, args.crop, cache=cache)
    sampler = dataset.EpochSampler(
        len(photos), shuffle=False, rank=fabric.global_rank, ranks=fabric.world_size
    )
    return build_loader(photos, sampler, batch_size, workers, fabric.device)


def caches(data: Data, args, plan) -> bool:
    """Whether the decoded photos are kept in memory."""
    return memory.cache_fits(len(data.frame), plan.resize, args.cache)


def build_loader(photos, sampler, batch_size, workers, device, drop_last=False):
    # A generator of its own: starting an epoch again draws nothing from the model's randomness.
    return DataLoader(
        photos,
        batch_size=batch_size,
        generator=torch.Generator(),
        sampler=sampler,
        worker_init_fn=_ignore_signals,
        drop_last=drop_last,
        pin_memory=device.type == "cuda",
        **processes.loader_options(workers),
    )


def _ignore_signals(_worker: int) -> None:
    """A signal to the process group must not take the loader workers from a run that saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """At exit multiprocessing ends its children by SIGTERM, which loader workers ignore."""
    children = multiprocessing.active_children()
    if children:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler takes it for a crash
    for child in children:
        child.kill()
