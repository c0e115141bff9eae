"""The photos a run trains on and validates on, and their loaders."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import dataset
from core.errors import UserError
from core.folders import data_folder
from core.labels import CLASSES
from core.processes import RANK
from core.progress import progress, say
from training.split import read_split, sampling_weights, split_people, thin


def read_data(args):
    """The frame of photos and the split of its people, both checked; says what was found."""
    source, why = data_folder(args.data_dir, "train")
    args.data_dir = str(source)
    frame = dataset.read_train(source, args.corrections, args.recursive == "yes")
    if args.split:
        split = read_split(Path(args.split), frame)
    else:
        split = split_people(frame, args.seed, args.folds, args.val_ratio)
    say(f"data: {len(frame):,} photos of {frame['person'].nunique():,} people in {source} ({why})")
    if args.check_photos == "yes" and RANK == 0:
        bad = dataset.check_photos(
            frame["path"], lambda results: progress(results, len(frame), "checking photos", "photo")
        )
        if bad:
            count = (
                "no photo can be read, first"
                if len(bad) == len(frame)
                else f"{len(bad)} of {len(frame)} photos cannot be used:"
            )
            more = "".join(f"; {error}" for error in bad[1:5]) + (
                f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            )
            raise UserError(f"{count} {bad[0]}{more}. Mend or remove them")
    return frame, split


def part(frame, split, fold, args):
    """The photos to train on and the ones to validate on; only the former are thinned or lose ages."""
    held_out = frame["person"].isin(split["person"][split["fold"] == fold])
    train, val = frame[~held_out], frame[held_out].reset_index(drop=True)
    if args.drop_ages:
        train = train[~train["age"].between(*args.drop_ages)]
    train = thin(train.reset_index(drop=True), args.thin, args.seed)
    weights = None if train.empty else sampling_weights(train["label"].to_numpy(), args.sampling)
    if args.thin or args.drop_ages or weights is not None:
        say(
            f"photos in an epoch, of all:      {tally(frame[~held_out]['label'])}\n"
            f"photos in an epoch, as sampled:  {tally(train['label'], weights)}"
        )
    if train.empty:
        raise UserError("no photo is left to train on; look at --drop_ages, --split and --fold")
    if val.empty and (args.val_ratio or args.folds):
        raise UserError(
            f"nobody is left to validate on in fold {fold}; look at --val_ratio, --split and --fold"
        )
    return train, val


def tally(labels, weights=None) -> str:
    """Photos by the values of each attribute in words; with `weights`, as many as an epoch draws of them on average."""
    counts = np.bincount(
        labels, None if weights is None else weights * len(labels), CLASSES
    ).reshape(3, 2, 3)
    return "; ".join(
        f"{name} " + " / ".join(f"{count:,.0f}" for count in counts.sum(axis=axes))
        for name, axes in (("mask", (1, 2)), ("gender", (0, 2)), ("age", (0, 1)))
    )


def build_loader(photos, sampler, batch_size, workers, device, drop_last=False):
    generator = (
        torch.Generator()
    )  # of its own, so that starting an epoch again draws nothing from the model's randomness
    return DataLoader(
        photos,
        batch_size=batch_size,
        generator=generator,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
