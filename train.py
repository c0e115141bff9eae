"""Train one model on a folder of people, or several: one for each of K folds, or of N seeds.

    python train.py --data_dir /data/train --name swin             one GPU, or the CPU
    torchrun --standalone --nproc_per_node=8 train.py --devices 8  eight GPUs
    python train.py --data_dir /data/train --name swin --resume    continue after an interruption

What a run writes is in MODEL_DIR/NAME: config.json, split.csv, metrics.csv, val_predictions.csv,
best.safetensors, last.ckpt.
"""

from training import settings

if __name__ == "__main__":  # before the slow imports, so that --help is immediate
    ARGS = settings.parse_or_exit()

import time

STARTED = time.perf_counter()

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from timm.utils import ModelEmaV3, distribute_bn

from core import memory, processes
from core.cli import run
from core.errors import UserError, counted
from core.files import write_json
from core.folders import folder
from core.labels import ATTRIBUTES, CLASSES
from core.processes import on_rank_zero
from core.progress import progress, say
from loss import create_criterion
from model import MaskClassifier
from prediction import tables
from prediction.model_file import save_model
from prediction.predict import to_model
from training import run_folder
from training.checkpoint import Checkpoint, State
from training.data import Data, TrainingPhotos, caches, part, read_photos
from training.folds import combine_folds, combine_members
from training.log import build_logger, close, epoch_line, log_epoch
from training.loss_meter import LossMeter
from training.optimizer import Schedule, build_optimizer
from training.split import write_split
from training.startup import describe, launch, start
from training.step import mix, total_loss, train_mode
from training.stop import Stop
from training.validation import Validation

SCORES = ("macro_f1", "accuracy", "mask", "gender", "age")


class Training:
    """Everything that one model is trained with, made as planned; says what was decided.

    `recorded` holds choices made before. The weights of a run that is `resumed` are those of its
    checkpoint, loaded later.
    """

    def __init__(self, args, data: Data, fold, path: Path, fabric, stop, recorded, resumed=False):
        self.args, self.path, self.fabric, self.stop = args, path, fabric, stop
        train_frame, val_frame = part(data, fold, args)
        self.model, self.plan = start(args, train_frame, data, fabric, recorded, resumed)
        plan = self.plan
        batch_bytes = 3 * max(plan.batch_size, args.valid_batch_size) * math.prod(plan.resize)
        workers = processes.readers(fabric.device.type, args.workers, batch_bytes)
        reading = (args, plan, fabric, workers, caches(data, args, plan))
        self.photos = TrainingPhotos(train_frame, *reading, data.extra)
        self.validation = Validation(val_frame, *reading)
        classes = len(ATTRIBUTES[args.attribute]) if args.attribute else CLASSES
        criterion = create_criterion(
            args.criterion, args.smoothing, args.gamma, args.f1_share, args.f1_memory, classes
        )
        self.criterion = criterion.to(fabric.device).train()
        optimizer = build_optimizer(self.model, args, fused=plan.precision != "fp16")
        self.schedule = Schedule(optimizer, args, args.epochs - plan.first_epoch, plan.updates)
        compiled = torch.compile(self.model) if plan.compiled else self.model
        self.net, self.optimizer = fabric.setup(compiled, optimizer)  # in parallel
        self.ema = ModelEmaV3(self.model, args.ema, use_warmup=True) if args.ema else None
        parts = {"model": self.model, "optimizer": self.optimizer}
        parts |= {"precision": fabric.strategy.precision}
        parts |= {"ema": self.ema.module} if self.ema else {}
        self.checkpoint = Checkpoint(path, fabric, self.criterion, **parts)
        self.logger = None
        say(describe(plan, fabric, workers))
        say(str(self.schedule))
        say(
            f"loss: {args.criterion}; {len(self.photos.paths):,} photos to train on, "
            f"{len(val_frame):,} to validate on; run folder {path}"
        )

    @property
    def kept(self) -> MaskClassifier:
        """The weights that are validated and kept."""
        return self.ema.module if self.ema else self.model


def train_epoch(t: Training, state: State) -> None:
    """Train an epoch, from the step where `state` stands, and put its row into `state`."""
    state.finished = False
    args, plan, fabric, photos, epoch = t.args, t.plan, t.fabric, t.photos, state.epoch
    begun = saved = time.perf_counter()
    first_step, first_update = state.step, (epoch - plan.first_epoch) * plan.updates
    scores = [row.get("macro_f1", 0) for row in state.rows[plan.first_epoch :]]
    lr = t.schedule.set(first_update + first_step // plan.accumulate, scores)
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None  # fp16
    losses = LossMeter(fabric, state.losses, scaled)
    train_mode(t.model)
    t.optimizer.zero_grad()
    batches, name = photos.batches(epoch, first_step), f"epoch {epoch + 1}/{args.epochs}"
    bar = progress(batches, plan.steps, name, "step", fabric.is_global_zero, first_step)
    for step, (pixels, rows) in zip(range(first_step, plan.steps), bar, strict=False):
        generator = np.random.default_rng((args.seed, epoch, step, fabric.global_rank))
        images = to_model(pixels, fabric.device, plan.channels_last)
        images, blend = mix(images, photos.masks[rows], args, generator)
        rows = rows.to(fabric.device, non_blocking=True)
        update = (step + 1) % plan.accumulate == 0
        last = step + 1 == plan.steps
        with fabric.no_backward_sync(t.net, enabled=not update):
            output = t.net(images, return_years=True)
            loss = total_loss(output, photos.targets[rows], blend, t.criterion, args)
            fabric.backward(loss / plan.accumulate)
        losses.add(loss, step)
        leave = save = False
        if update:
            norm = fabric.clip_gradients(
                t.net, t.optimizer, max_norm=args.clip or math.inf, error_if_nonfinite=False
            )
            losses.check(norm, step)
            t.optimizer.step()
            t.optimizer.zero_grad()
            done = (step + 1) // plan.accumulate
            lr = t.schedule.set(first_update + done, scores)
            if t.ema:
                t.ema.update(t.model, step=epoch * plan.updates + done)
            if not last:
                due = time.perf_counter() - saved > args.save_interval * 60
                leave, save = t.stop.poll(due)
        if last or leave or save or (step + 1) % args.log_interval == 0:
            mean = losses.read(step, epoch, photos, plan)  # the loop waits for the device only here
            seconds = time.perf_counter() - begun
            speed = (step + 1 - first_step) * plan.batch_size * fabric.world_size / seconds
            bar.set_postfix(loss=f"{mean:.3f}", img_s=f"{speed:.0f}")
        if leave or save:
            state.step, state.losses = step + 1, losses.state()
            t.checkpoint.save(state)
            saved = time.perf_counter()
        if leave:
            t.stop.leave(t.path)
    row = {"epoch": epoch + 1, "lr": lr, "loss": mean, "images_per_s": speed, "seconds": seconds}
    row["memory_gb"] = memory.peak_memory(fabric.device)
    row |= {"fp16_overflows": int(losses.overflows)} if scaled else {}
    state.rows.append(row)
    state.epoch, state.step, state.losses = epoch + 1, 0, losses.of_next_epoch()
    state.validated = False


def share_batch_norms(t: Training) -> None:
    """Give all ranks the batch norm statistics of rank 0: what is saved is what is validated."""
    for model in (t.model, t.ema.module) if t.ema else (t.model,):  # in the same order everywhere
        if t.fabric.world_size > 1:
            distribute_bn(model, t.fabric.world_size)


def end_epoch(t: Training, state: State) -> None:
    """Validate the epoch that was trained last; keep the model if it is the best so far.

    With folds or members the last epoch is kept: people who choose an epoch cannot score it
    honestly.
    """
    begun, row = time.perf_counter(), state.rows[-1]
    log_probabilities = ages = None
    frame = t.validation.frame
    if len(frame):
        scores, log_probabilities, ages = t.validation(
            t.kept, lambda batches: t.stop.watch(batches, t.path)
        )
        row |= scores
    elif t.stop.poll()[0]:  # an epoch of one update has not looked yet
        t.stop.leave(t.path)
    better = not len(frame) or row["macro_f1"] >= state.best.get("macro_f1", 0)
    if better:
        state.best = row
    kept = better or keeps_last(t.args)
    state.validated = True

    def write():
        tables.write_table(t.path / "metrics.csv", pd.DataFrame(state.rows))
        if kept:
            scores = {name: row[name] for name in SCORES if name in row}
            save_model(t.kept, t.path / "best.safetensors", epoch=row["epoch"], **scores)
        if kept and len(frame):
            tables.write_predictions(t.path, frame, log_probabilities, ages)
        if t.logger:
            log_epoch(t.logger, row, frame, log_probabilities)

    on_rank_zero(t.fabric, write)
    seconds = row["seconds"] + time.perf_counter() - begun
    mark = "  *" if kept and len(frame) else ""
    say(epoch_line(row, t.args.epochs, seconds) + mark)


def train(args, data: Data, fold: int, path: Path, fabric, stop, common=None):
    """Train one model in the run folder `path`: the row of the epoch that is kept, and the Plan.

    `common` holds the choices that were made for another fold or member.
    """

    def recorded():
        return run_folder.recorded_choices(path, args) if run_folder.has_begun(path) else {}

    choices = on_rank_zero(fabric, recorded)
    resumed = bool(choices) and on_rank_zero(fabric, run_folder.has_checkpoint, path)
    t = Training(args, data, fold, path, fabric, stop, choices or common or {}, resumed)
    state = State()
    if resumed:
        state = t.checkpoint.restore()
        say(f"resumed after epoch {state.epoch}, step {state.step}")
        if t.plan.first_epoch == state.epoch > 0:
            say(f"extended to {args.epochs} epochs, with a new learning-rate schedule from here")
    on_rank_zero(fabric, begin, t, data, state)
    if common is None:
        say(f"start-up took {time.perf_counter() - STARTED:.1f} s")
    with stop:
        while not (state.validated and is_over(t, state)):
            if state.validated:
                train_epoch(t, state)
                share_batch_norms(t)
                t.checkpoint.save(state)
                on_rank_zero(fabric, run_folder.keep_checkpoints, path, state.epoch, args.keep)
            end_epoch(t, state)
        if not state.finished:
            state.finished = True
            t.checkpoint.save(state)
    on_rank_zero(fabric, run_folder.mark_finished, path)
    if t.logger:
        close(t.logger)
    return state.rows[-1] if keeps_last(args) else state.best, t.plan


def keeps_last(args) -> bool:
    """Whether the last epoch is kept, not the best one."""
    return bool(args.folds or args.members)


def begin(t: Training, data: Data, state: State) -> None:
    """Write what describes the run, unless it is resumed; open its logger."""
    if state.epoch == t.plan.first_epoch and state.step == 0:
        run_folder.check_space(t.path, t.model, t.args)
        write_split(data.split, t.path / "split.csv")
        run_folder.write_config(t.path, t.args, t.plan, data, t.fabric)  # last: the run has begun
    t.logger = build_logger(t.args.logger, t.path)


def is_over(t: Training, state: State) -> bool:
    """Whether all epochs are done, or macro-F1 has not improved for --patience epochs."""
    if not t.args.patience or state.epoch >= t.args.epochs or "macro_f1" not in state.best:
        return state.epoch >= t.args.epochs
    scores = [row["macro_f1"] for row in state.rows[t.plan.first_epoch :]]
    if not scores:  # extended just now
        return False
    since = len(scores) - 1 - int(np.argmax(scores))  # a tie is no improvement
    if since >= t.args.patience:
        say(f"stopped early: macro-F1 has not improved for {counted(since, 'epoch')}")
    return since >= t.args.patience


def train_several(args, data: Data, path: Path, fabric, stop) -> dict:
    """A model for each fold in path/fold-0, ..., or for each of --members seeds in path/member-0...

    Returns the score of all of them together.
    """
    common, kind, count = None, "fold" if args.folds else "member", args.folds or args.members
    for number in range(count):
        say(f"\n{kind} {number} of {count}")
        own_path = path / f"{kind}-{number}"
        on_rank_zero(fabric, lambda path=own_path: path.mkdir(exist_ok=True))
        fold, seed = (number, args.seed) if args.folds else (0, args.seed + number)
        own = argparse.Namespace(**vars(args) | {"seed": seed})
        _, plan = train(own, data, fold, own_path, fabric, stop, common)
        common = plan.common
    combine = combine_folds if args.folds else combine_members
    return on_rank_zero(fabric, combine, path, args, data.split)


def main(args) -> int:
    model_dir = folder(args.model_dir, "SM_MODEL_DIR", default="model")
    fabric = launch(args)
    frame, extra, source, check = read_photos(args, fabric)
    path, split = on_rank_zero(fabric, run_folder.open_run, args, frame, extra, model_dir)
    data = Data(frame, split, source, check, extra)
    if path.name != args.name.split("/")[-1]:
        say(f"run {args.name} exists already: this one is {path.name}")
    try:
        stop = Stop(fabric.world_size)
        if args.members or (args.folds and args.fold is None):
            best = train_several(args, data, path, fabric, stop)
            where = "out of fold" if args.folds else f"mean of {args.members} members"
        else:
            best, _ = train(args, data, args.fold or 0, path, fabric, stop)
            where = f"epoch {best['epoch']}"
    except RuntimeError as error:
        if processes.lost_a_peer(error):
            raise UserError(
                "another process of this run has ended; its own message says why. Continue with "
                "--resume"
            ) from None
        if not memory.is_out_of_memory(error):
            raise
        raise UserError(
            f"--batch_size {args.batch_size} does not fit in memory; lower it (--accumulate keeps "
            "the effective batch), or use --checkpointing yes or a smaller --resize"
        ) from None
    finally:  # stopped at start-up
        if fabric.is_global_zero:
            run_folder.remove_if_empty(path)
    name = path.relative_to(model_dir)
    if fabric.is_global_zero:
        write_json(model_dir / "latest.json", {"run": str(name)})
    if stop.signal:
        stop.leave(path)
    if "macro_f1" in best:
        if args.report == "yes" and not args.attribute and fabric.is_global_zero:
            from reporting.run import run_page

            say(f"report: {run_page(path)}")
        score, accuracy = best["macro_f1"], best["accuracy"]
        of = f" of {args.attribute}" if args.attribute else ""
        say(f"\nvalidation macro-F1{of} {score:.4f} ({where}), accuracy {accuracy:.4f}")
    say(f"run folder: {path}\nnext: sh inference.sh --name {name}")
    return 0


if __name__ == "__main__":
    run(main, ARGS)
