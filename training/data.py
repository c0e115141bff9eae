"""The photos a run trains on and validates on, and their loaders."""

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

import dataset
from core import extra_photos, memory, processes
from core.errors import UserError
from core.folders import data_folder
from core.labels import CLASSES
from core.processes import on_rank_zero
from core.progress import progress, say
from training.augmentation import augmentation
from training.split import sampling_weights, thin
from training.targets import targets_of

POLL = 60  # seconds between rank 0's words to the others while it checks photos


@dataclass(frozen=True)
class Data:
    """All photos of a run with their labels, its people's folds, and the folder they come from.

    `extra` photos are trained on in every fold.
    """

    frame: pd.DataFrame
    split: pd.DataFrame
    source: Path
    check: Callable[[], None] = lambda: None
    extra: pd.DataFrame = field(default_factory=extra_photos.no_extra)


def read_photos(args, fabric) -> tuple[pd.DataFrame, pd.DataFrame, Path, Callable[[], None]]:
    """The frame of photos, that of --extra, the folder of the former, and a function for all ranks
    to call before training; says what was found.

    Photos are checked while the model is fetched and built. The function waits for that and raises
    UserError for broken ones; with --on_error skip they are left out of the frames instead.
    """

    def read():
        source, why = data_folder(args.data_dir, "train")
        frame = dataset.read_train(source, args.corrections, args.recursive == "yes")
        return frame, _read_extra(args, frame), source, why

    frame, extra, source, why = on_rank_zero(fabric, read)  # two ranks can see different things
    people = frame["person"].nunique()
    say(f"data: {len(frame):,} photos of {people:,} people in {source} ({why})")
    if len(extra):
        say(f"--extra {args.extra}: {extra_photos.summary(extra)}")
    if args.check_photos == "no" and args.on_error == "fail":
        return frame, extra, source, lambda: None
    paths = [*frame["path"], *extra["path"]]

    def bar(results):
        return progress(results, len(paths), "checking photos", "photo")

    if fabric.is_global_zero:
        found = InBackground(dataset.check_photos, paths, bar)

    def unreadable():
        while (bad := on_rank_zero(fabric, lambda: found.within(POLL))) is None:
            pass  # the other ranks give up if they hear nothing for half an hour
        return bad

    if args.on_error == "skip":
        bad = unreadable()
        warn_of(bad, len(paths))
        kept = dataset.without(frame, bad)
        _check_some_are_good(kept, bad)
        return kept, dataset.without(extra, bad), source, lambda: None
    return frame, extra, source, lambda: refuse(frame, unreadable(), len(paths))


def _read_extra(args, frame: pd.DataFrame) -> pd.DataFrame:
    if not args.extra:
        return extra_photos.no_extra()
    extra = extra_photos.read_extra(Path(args.extra), args.attribute)
    extra_photos.refuse_own(extra, frame["path"], args.extra)
    return extra


class InBackground:
    """`function(*arguments)` in a daemon thread, which the end of the process does not wait for."""

    def __init__(self, function, *arguments):
        self.result = Future()
        threading.Thread(target=self._work, args=(function, *arguments), daemon=True).start()

    def _work(self, function, *arguments) -> None:
        try:
            self.result.set_result(function(*arguments))
        except BaseException as error:
            self.result.set_exception(error)

    def within(self, seconds: float):
        """The result, None if there is none after `seconds`; raises what the function raised."""
        wait([self.result], seconds)
        return self.result.result() if self.result.done() else None


def refuse(frame: pd.DataFrame, bad: list, photos: int) -> None:
    """UserError if there are `bad` ones among the `photos`."""
    _check_some_are_good(dataset.without(frame, bad), bad)
    if bad:
        raise UserError(
            f"{len(bad):,} of {photos:,} photos cannot be used: {_first(bad)}. Fix or remove "
            "them, or leave them out with --on_error skip"
        )


def warn_of(bad: list, photos: int) -> None:
    """Say which of the `photos` are left out."""
    if bad:
        count = f"{len(bad):,} of {photos:,} photos"
        say(f"warning: left out {count} that cannot be read: {_first(bad)}")


def _check_some_are_good(good: pd.DataFrame, bad: list) -> None:
    if good.empty:
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

    The rows of `extra` photos follow those of `frame`. Pixels travel as uint8 with their row; the
    targets wait on the device.
    """

    def __init__(self, frame, args, plan, fabric, workers: int, cache: bool, extra=None):
        extra = extra_photos.no_extra() if extra is None else extra
        self.paths, self.seed = [*frame["path"], *extra["path"]], args.seed
        self.batch_size = plan.batch_size
        self.weights = sampling_weights(frame["label"].to_numpy(), args.sampling)
        self.ranks = fabric.world_size
        steps = augmentation(args.augmentation, size=tuple(plan.resize))
        photos = dataset.Photos(self.paths, plan.resize, args.crop, steps, args.seed, cache)
        self.sampler = self._sampler(fabric.global_rank)
        self.loader = build_loader(
            photos,
            self.sampler,
            plan.batch_size,
            workers,
            fabric.device,
            drop_last=len(self.sampler) >= plan.batch_size,
        )
        self.targets = targets_of(frame, extra, args.bands, fabric.device)
        self.masks = np.concatenate([frame["mask"], extra["mask"]])

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
        return [str(self.paths[row]) for _, row, _ in order]


def validation_loader(frame, args, plan, fabric, batch_size: int, workers: int, cache: bool):
    """The loader of this rank's share of the photos to validate on."""
    photos = dataset.Photos(frame["path"], plan.resize, args.crop, cache=cache)
    sampler = dataset.EpochSampler(
        len(photos), shuffle=False, rank=fabric.global_rank, ranks=fabric.world_size
    )
    return build_loader(photos, sampler, batch_size, workers, fabric.device)


def caches(data: Data, args, plan) -> bool:
    """Whether the decoded photos are kept in memory."""
    return memory.cache_fits(len(data.frame) + len(data.extra), plan.resize, args.cache)


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
