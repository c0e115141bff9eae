"""Train one model on a folder of people, or one for each of K folds.

    python train.py --data_dir /data/train --name swin                     one GPU, or the CPU
    torchrun --standalone --nproc_per_node=8 train.py --devices 8          eight GPUs
    python train.py --data_dir /data/train --name swin --resume            go on after an interruption

What a run leaves is in MODEL_DIR/NAME: config.json, split.csv, metrics.csv, val_predictions.csv, best.safetensors, last.ckpt.
"""

import settings
from cli import UserError, cores, data_folder, folder, is_drawn, run, safe_name, write_json

if __name__ == "__main__":  # before the heavy imports, so that --help answers at once
    ARGS = settings.parse_or_exit()

import copy
import json
import logging
import math
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader

import dataset
import machine
import metrics
import run_folder
import transforms
from loss import create_criterion, soft_targets, years_loss, years_target
from model import MaskClassifier, backbone_config, fold_batch_norms, load_pretrained, predict, save_model, set_offsets, to_model
from progress import RANK, build_loggers, epoch_line, log_pictures, progress, say

# ---------------------------------------------------------------------------- data


def read_data(args):
    """The frame of photos and the split of its people, both checked; says what was found."""
    source, why = data_folder(args.data_dir, "train")
    args.data_dir = str(source)
    frame = dataset.read_train(source, args.corrections)
    if args.split:
        split = dataset.read_split(Path(args.split), frame)
    else:
        split = dataset.split_people(frame, args.seed, args.folds, args.val_ratio)
    say(f"data: {len(frame):,} photos of {frame['person'].nunique():,} people in {source} ({why})")
    if args.check_photos == "yes" and RANK == 0:
        bad = dataset.check_photos(frame["path"], lambda results: progress(results, len(frame), "checking photos", "photo"))
        if bad:
            count = "no photo can be read, first" if len(bad) == len(frame) else f"{len(bad)} of {len(frame)} photos cannot be used:"
            more = "".join(f"; {error}" for error in bad[1:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise UserError(f"{count} {bad[0]}{more}. Mend or remove them")
    return frame, split


def part(frame, split, fold, args):
    """The photos to train on and the ones to validate on; only the former are thinned or lose ages."""
    held_out = frame["person"].isin(split["person"][split["fold"] == fold])
    train, val = frame[~held_out], frame[held_out].reset_index(drop=True)
    if args.drop_ages:
        train = train[~train["age"].between(*args.drop_ages)]
    train = dataset.thin(train.reset_index(drop=True), args.thin, args.seed)
    weights = None if train.empty else dataset.sampling_weights(train["label"].to_numpy(), args.sampling)
    if args.thin or args.drop_ages or weights is not None:
        say(f"photos in an epoch, of all:      {tally(frame[~held_out]['label'])}\n"
            f"photos in an epoch, as sampled:  {tally(train['label'], weights)}")
    if train.empty:
        raise UserError("no photo is left to train on; look at --drop_ages, --split and --fold")
    if val.empty and (args.val_ratio or args.folds):
        raise UserError(f"nobody is left to validate on in fold {fold}; look at --val_ratio, --split and --fold")
    return train, val


def tally(labels, weights=None) -> str:
    """Photos by the values of each attribute in words; with `weights`, as many as an epoch draws of them on average."""
    counts = np.bincount(labels, None if weights is None else weights * len(labels), dataset.CLASSES).reshape(3, 2, 3)
    return "; ".join(f"{name} " + " / ".join(f"{count:,.0f}" for count in counts.sum(axis=axes))
                     for name, axes in (("mask", (1, 2)), ("gender", (0, 2)), ("age", (0, 1))))  # fmt: skip


def build_loader(photos, sampler, batch_size, workers, device, drop_last=False):
    generator = torch.Generator()  # of its own, so that starting an epoch again draws nothing from the model's randomness
    return DataLoader(
        photos, batch_size=batch_size, generator=generator, sampler=sampler, num_workers=workers, drop_last=drop_last,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0, prefetch_factor=4 if workers else None,
    )  # fmt: skip


# ---------------------------------------------------------------------------- model, optimizer, schedule


def build_model(args, train_frame) -> MaskClassifier:
    """The model at its start: backbone, head, weights, and all that inference will need to know."""
    keywords = settings.keywords(args.model_kwargs)
    config = backbone_config(args.model)
    args.resize = args.resize or (config["resize"] if config["fixed"] else [256, 192])
    if args.statistics == "measured":
        config["mean"], config["std"] = dataset.pixel_statistics(train_frame["path"], args.resize, args.crop)
    model = MaskClassifier(
        args.model, args.head, args.resize, args.mean or config["mean"], args.std or config["std"], keywords,
        crop=args.crop, bands=args.bands, drop=args.drop, tta=args.tta, drawn=is_drawn(Path(args.data_dir)), macro_f1=None,
    )  # fmt: skip
    weights = load_pretrained(model, args.pretrained)
    freeze = args.freeze if args.freeze is not None else 2 * (args.pretrained != "no")
    if freeze:
        groups = timm.models.group_parameters(model.backbone, model.backbone.group_matcher(coarse=True))
        for group in sorted(groups)[:freeze]:
            for name in groups[group]:
                model.backbone.get_parameter(name).requires_grad_(False)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    size = f"{args.resize[0]} x {args.resize[1]}"
    say(f"model: {args.model}, {args.head} head, {parameters:.1f} M parameters, input {size}, weights: {weights}")
    return model


def build_optimizer(model, args, fused: bool):
    """timm's optimizer: layer-wise learning rates in the backbone, no weight decay of norms and biases."""
    skip = model.backbone.no_weight_decay() if hasattr(model.backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(model.backbone, args.weight_decay, skip, layer_decay=args.layer_decay)
    for decayed in (True, False):
        own = [p for p in model.head.parameters() if (p.ndim > 1) == decayed]
        groups.append({"params": own, "weight_decay": args.weight_decay if decayed else 0.0, "lr_scale": 1.0})
    name = args.optimizer.lower()
    if name not in list_optimizers():
        raise UserError(f"--optimizer: timm has no {args.optimizer!r}; it has {', '.join(list_optimizers(exclude_filters=['bnb*']))}")
    keywords = {"fused": True} if fused and name in ("adam", "adamw", "sgd") else {}
    return create_optimizer_v2(groups, opt=name, lr=args.lr, weight_decay=0.0, **keywords)


def build_schedule(optimizer, args, per_epoch: int):
    """timm's scheduler as a function of the update, which it sets on `optimizer`, and the run's learning rates in a line of words."""
    epochs = args.scheduler == "winners"  # theirs was stepped once an epoch: five epochs of warm-up never reach the peak
    warmup = round(args.warmup) if epochs else round(min(args.warmup, args.epochs / 2) * per_epoch)
    common = {"warmup_t": warmup, "warmup_lr_init": args.lr / 10, "warmup_prefix": True, "t_in_epochs": epochs}
    if args.scheduler == "cosine":
        schedule = CosineLRScheduler(optimizer, max(2, args.epochs * per_epoch - warmup), lr_min=args.lr / 100, **common)
    else:
        schedule = StepLRScheduler(optimizer, args.lr_decay_step * (1 if epochs else per_epoch), decay_rate=0.5, **common)

    def step(update: int) -> float:
        schedule.step(update // per_epoch) if epochs else schedule.step_update(update)
        return max(group["lr"] for group in optimizer.param_groups)

    rates = [step(update) for update in range(args.epochs * per_epoch)]
    peak = int(np.argmax(rates))
    step(0)
    return step, (f"schedule: {args.scheduler}, {per_epoch} updates an epoch, {len(rates):,} in all; learning rate {rates[0]:.1e}, "
                  f"at its peak {rates[peak]:.1e} (update {peak + 1:,}), at last {rates[-1]:.1e}")  # fmt: skip


# ---------------------------------------------------------------------------- one training step


def train_mode(model) -> None:
    """Training mode for all but the batch norms of frozen layers, whose statistics stay those of their weights."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()


def mix(images, masks, args, generator):
    """Blend or halve the batch in pairs, as --mixup and --half_face ask: images, the partners' positions and the share of the first."""
    draw = generator.random()
    if draw < args.mixup:
        share = float(generator.beta(0.4, 0.4))
        other = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        images = images.float()
        return torch.lerp(images[other], images, share), other, share
    if draw < args.mixup + args.half_face:
        other = torch.from_numpy(transforms.partners(masks, generator)).to(images.device)
        left = torch.from_numpy(generator.random(len(images)) < 0.5).to(images.device)
        return transforms.half_face(images, other, left), other, 0.5
    return images, None, 1.0


def total_loss(scores, model, criterion, label, age, other, share, args):
    """The criterion and the years head's own term, on plain or mixed labels."""
    target = label
    if other is not None:
        target = soft_targets(label, dataset.CLASSES)
        target = torch.lerp(target[other], target, share)
    loss = criterion(scores, target)
    if args.head == "years":
        logits, model.head.years = model.head.years, None  # taken: what is left of a step cannot be copied with the model
        years = years_target(age, logits.shape[1], args.years_sigma)
        if other is not None:
            years = torch.lerp(years[other], years, share)
        loss = loss + args.years_weight * years_loss(logits, years)
    return loss


# ---------------------------------------------------------------------------- one run


def train(args, frame, split, fold, path: Path, launcher: Fabric, choice=None) -> tuple[dict, machine.Choice]:
    """Train one model in the run folder `path`: the metrics of its best epoch (only `epoch` where nothing is held out), and the choice.

    `launcher` has started the other processes, if any; what is measured on the first of them holds for all. A `choice` of precision
    and so on that was made before is kept.
    """
    train_frame, val_frame = part(frame, split, fold, args)
    labels = val_frame["label"].to_numpy()
    criterion = create_criterion(args.criterion, args.smoothing, args.gamma, args.f1_share, args.f1_memory)
    torch.manual_seed(args.seed)
    model = build_model(args, train_frame)

    # the machine
    kind = machine.accelerator(args.accelerator)
    machine.keep_memory(kind)
    resumed = args.resume == "yes" and (path / "config.json").is_file() and run_folder.check_same_run(path, args)
    if resumed:
        choice = machine.Choice(**resumed)
    elif choice is None:
        if kind == "cpu" and "auto" in (args.precision, args.layout):
            say("measuring which precision and memory layout are fastest here")
        choice = launcher.broadcast(machine.choose(model, kind, args, training=True))
    fabric = Fabric(accelerator=kind, devices=args.devices, num_nodes=args.nodes, precision=choice.fabric_precision,
                    loggers=build_loggers(args.logger, path))  # fmt: skip
    fabric.launch()
    if choice.threads:  # as when the run began: another number adds up in another order, to other bits
        torch.set_num_threads(min(choice.threads, cores()))
    workers = machine.readers(kind, args.workers)
    micro, accumulate = args.batch_size // choice.split, args.accumulate * choice.split
    if choice.checkpointing:
        model.backbone.set_grad_checkpointing(True)
    machine.fuse_attention(model, kind, training=True)
    if choice.channels_last:
        model = model.to(memory_format=torch.channels_last)
    whole = all(parameter.requires_grad for parameter in model.parameters())
    of_peak = machine.share_of_peak(model, fabric.device, choice.precision) if kind == "cuda" and whole else None
    say(f"device: {kind} x {fabric.world_size}, {choice}, {workers} workers")

    # data: pixels travel as uint8 with their row; labels and ages wait on the device
    cache = machine.cache_fits(len(frame), args.resize, args.cache)
    ranks = {"rank": fabric.global_rank, "ranks": fabric.world_size}
    photos = dataset.Photos(train_frame["path"], args.resize, args.crop, transforms.augmentation(args.augmentation), args.seed, cache)
    weights = dataset.sampling_weights(train_frame["label"].to_numpy(), args.sampling)
    sampler = dataset.EpochSampler(len(photos), args.seed, weights, **ranks)
    loader = build_loader(photos, sampler, micro, workers, fabric.device, drop_last=len(sampler) >= micro)
    val_photos = dataset.Photos(val_frame["path"], args.resize, args.crop, cache=cache)
    val_sampler = dataset.EpochSampler(len(val_photos), shuffle=False, **ranks)
    ways = machine.at_a_time(kind, workers)
    val_loader = build_loader(val_photos, val_sampler, -(-args.valid_batch_size // ways), workers, fabric.device)
    train_labels = dataset.encode(train_frame["mask"], train_frame["gender"], train_frame["age"], args.bands)
    train_labels = torch.tensor(train_labels.to_numpy(copy=True), device=fabric.device)
    ages, masks = torch.tensor(train_frame["age"].to_numpy(copy=True), device=fabric.device), train_frame["mask"].to_numpy()

    # model, optimizer, schedule
    steps = max(accumulate, len(loader) // accumulate * accumulate)  # photos short of a whole update wait for another epoch
    optimizer = build_optimizer(model, args, fused=choice.precision != "fp16")
    set_lr, line = build_schedule(optimizer, args, steps // accumulate)
    if choice.compiled is None:
        choice.compiled = machine.compiles(args.compile, kind, args.epochs * steps, worth=5000)
    net, optimizer = fabric.setup(torch.compile(model) if choice.compiled else model, optimizer)
    ema = ModelEmaV3(model, args.ema, use_warmup=True) if args.ema else None
    kept = ema.module if ema else model  # the weights that are validated and kept
    criterion = criterion.to(fabric.device).train()
    say(line)
    say(f"loss: {args.criterion}; {len(train_frame):,} photos to train on, {len(val_frame):,} to validate on"
        f"{', compiled' if choice.compiled else ''}; run folder {path}")
    state = {"epoch": 0, "step": 0, "total": [0.0] * fabric.world_size, "rows": [], "best": {}}
    parts = {"model": model, "optimizer": optimizer, "criterion": criterion, "precision": fabric.strategy.precision}
    parts |= {"ema": ema.module} if ema else {}
    if resumed and (path / "last.ckpt").is_file():
        state = restore(path, state, parts)
        say(f"resumed after epoch {state['epoch']}, step {state['step']}")
    elif fabric.is_global_zero:
        run_folder.check_space(path, model, args)
        run_folder.write_config(path, args, choice, fabric)
        dataset.write_split(split, path / "split.csv")
        if args.logger == "wandb":
            fabric.logger.log_hyperparams(vars(args))
    stop = Stop()
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # of fp16: it halves its scale and leaves an update out when one overflows
    scale = scaler.get_scale() if scaler else 1.0

    for epoch in range(state["epoch"], args.epochs):
        train_mode(model)
        start = saved = time.perf_counter()
        sampler.epoch, sampler.start = epoch, state["step"] * micro
        total = torch.tensor(state["total"][fabric.global_rank], device=fabric.device)  # of this process
        overflows = 0
        first_bad = torch.full((), -1, device=fabric.device)  # the step whose loss was no number
        optimizer.zero_grad()
        bar = progress(loader, steps, f"epoch {epoch + 1}/{args.epochs}", "step", fabric.is_global_zero, state["step"])
        for step, (pixels, rows) in zip(range(state["step"], steps), bar, strict=False):
            generator = np.random.default_rng((args.seed, epoch, step, fabric.global_rank))
            images = to_model(pixels, fabric.device, choice.channels_last)
            images, other, share = mix(images, masks[rows], args, generator)
            rows = rows.to(fabric.device, non_blocking=True)
            update = (step + 1) % accumulate == 0
            with fabric.no_backward_sync(net, enabled=not update):
                loss = total_loss(net(images), model, criterion, train_labels[rows], ages[rows], other, share, args)
                fabric.backward(loss / accumulate)
            total += loss.detach()
            first_bad = torch.where((first_bad < 0) & ~torch.isfinite(loss), step, first_bad)
            if update:
                if args.clip:
                    fabric.clip_gradients(net, optimizer, max_norm=args.clip, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                done = (epoch * steps + step + 1) // accumulate
                lr = set_lr(done)
                if ema:
                    ema.update(model, step=done)
            look = (step + 1) % args.log_interval == 0 or step + 1 == steps
            leave = update and step + 1 < steps and (look or fabric.world_size == 1) and agreed(
                stop.asked or time.perf_counter() - saved > args.save_interval * 60, fabric)  # fmt: skip
            if look or leave:  # the only place in the loop that waits for the device
                mean = fabric.all_reduce(total, reduce_op="mean").item() / (step + 1)
                if not math.isfinite(mean):
                    bad = first_bad.item()
                    seen = [train_frame["path"].iloc[row] for _, row, _ in sampler.of_epoch(epoch)[bad * micro :][:micro]] if bad >= 0 else []
                    raise UserError(f"the loss is {mean} since step {bad + 1} of epoch {epoch + 1}; lower --lr, use --precision fp32, or "
                                    f"look at the step's photos: {', '.join(seen) or 'named by another process'}")
                if scaler:
                    overflows += round(max(0.0, math.log2(scale / scaler.get_scale())))
                    scale = scaler.get_scale()
                speed = (step + 1 - state["step"]) * micro * fabric.world_size / (time.perf_counter() - start)
                bar.set_postfix(loss=f"{mean:.3f}", img_s=f"{speed:.0f}")
            if leave:
                save(path, fabric, parts, state | {"epoch": epoch, "step": step + 1, "total": fabric.all_gather(total).flatten().tolist()})
                saved = time.perf_counter()
                stop.obey(path, fabric)
        row = {"epoch": epoch + 1, "lr": lr, "loss": mean, "images_per_s": speed, "seconds": time.perf_counter() - start,
               "memory_gb": machine.peak_memory(fabric.device)}  # fmt: skip
        row |= ({"fp16_overflows": overflows} if scaler else {}) | ({"mfu": speed / fabric.world_size * of_peak} if of_peak else {})

        if len(val_frame):
            answering = kept
            if kind == "cpu":
                fold_batch_norms(answering := copy.deepcopy(kept))
            log_probabilities = predict(answering, val_loader, len(val_frame), fabric, choice.channels_last, args.tta,
                                        machine.answering_precision(kind), ways)  # fmt: skip
            row |= metrics.score(labels, log_probabilities.argmax(axis=1))
        state["rows"].append(row)
        better = row.get("macro_f1", 0) >= state["best"].get("macro_f1", 0) or not len(val_frame)
        if better:
            state["best"] = row
        state |= {"epoch": epoch + 1, "step": 0, "total": [0.0] * fabric.world_size}
        if fabric.is_global_zero:
            run_folder.write_table(path / "metrics.csv", pd.DataFrame(state["rows"]))
            if better:
                scores = {key: row[key] for key in ("macro_f1", "accuracy", "mask", "gender", "age") if key in row}
                save_model(kept, path / "best.safetensors", epoch=epoch + 1, **scores)
                if len(val_frame):
                    run_folder.write_predictions(path, val_frame, log_probabilities)
            fabric.log_dict({key: float(value) for key, value in row.items() if key != "epoch"}, step=epoch + 1)
            if args.logger != "csv" and len(val_frame):
                log_pictures(fabric.logger, val_frame, log_probabilities, epoch + 1)
        save(path, fabric, parts, state)
        if fabric.is_global_zero:
            run_folder.keep_checkpoints(path, epoch + 1, args.keep)
        say(epoch_line(row, args.epochs, time.perf_counter() - start) + ("  *" if better and len(val_frame) else ""))
        stop.obey(path, fabric)
    stop.forget()
    return state["best"], choice


def agreed(wish: bool, fabric) -> bool:
    """Whether any of the processes wishes it: what one of them does alone at a barrier, the others wait for until they are killed."""
    if fabric.world_size == 1:
        return wish
    return fabric.all_reduce(torch.tensor(float(wish), device=fabric.device), reduce_op="sum").item() > 0


class Stop:
    """Ctrl-C and SIGTERM ask the loop to save and stop at its next update; a second Ctrl-C stops at once."""

    def __init__(self):
        self.asked, self.name, self.status = False, "", 0
        self.before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}

    def __call__(self, number, _):
        self.asked, self.name, self.status = True, signal.Signals(number).name, 128 + number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def obey(self, path: Path, fabric) -> None:
        """End all processes if one was asked to; to be called when all is saved."""
        if agreed(self.asked, fabric):
            say(f"\nstopped by {self.name or 'another process'}, all saved in {path}; go on with the same command and --resume")
            raise SystemExit(self.status or 128 + signal.SIGTERM)

    def forget(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def save(path, fabric, parts, state) -> None:
    """last.ckpt: all that the rest of the run depends on. Orders and augmentations are functions of seed, epoch and photo."""
    if fabric.is_global_zero:
        run_folder.save_checkpoint(path, **state, random=torch.get_rng_state(), **{name: item.state_dict() for name, item in parts.items()})
    fabric.barrier()


def restore(path, state, parts) -> dict:
    stored = run_folder.load_checkpoint(path)
    for name, item in parts.items():
        item.load_state_dict(stored[name])
    torch.set_rng_state(stored["random"])
    return {key: stored[key] for key in state}


def train_folds(args, frame, split, path: Path, launcher: Fabric) -> dict:
    """One model a fold in path/fold-0, ...; in `path` their out-of-fold predictions and score, and the offsets tuned on them."""
    choice = None
    for fold in range(args.folds):
        say(f"\nfold {fold} of {args.folds}")
        (path / f"fold-{fold}").mkdir(exist_ok=True)
        _, choice = train(args, frame, split, fold, path / f"fold-{fold}", launcher, choice)
    if not launcher.is_global_zero:
        return {}
    parts = [run_folder.read_predictions(path / f"fold-{fold}")[0] for fold in range(args.folds)]
    number = np.repeat(np.arange(args.folds), [len(part) for part in parts])
    run_folder.write_table(path / "val_predictions.csv", pd.concat(parts, ignore_index=True))
    dataset.write_split(split, path / "split.csv")
    table, log_probabilities = run_folder.read_predictions(path)
    best = metrics.score(labels := table["label"].to_numpy(), table["ans"].to_numpy())
    offsets, before, after = metrics.cross_fitted_offsets(log_probabilities, labels, number)
    used = args.offsets == "yes" or (args.offsets == "auto" and after > before + 0.002)
    say(f"offsets tuned for macro-F1 would take it from {before:.4f} to {after:.4f} (each fold with those of the others): "
        f"{'kept in the model files' if used else 'left out'}")
    if used:
        for fold in range(args.folds):
            set_offsets(path / f"fold-{fold}" / "best.safetensors", offsets)
    config = json.loads((path / "fold-0" / "config.json").read_text(encoding="utf-8"))
    write_json(path / "config.json", config | {"scores": best})
    return best


def main(args) -> int:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    model_dir, name = folder(args.model_dir, "SM_MODEL_DIR", default="model"), safe_name(args.name)
    args.model_dir = str(model_dir)
    frame, split = read_data(args)
    launcher = Fabric(accelerator=machine.accelerator(args.accelerator), devices=args.devices, num_nodes=args.nodes)
    launcher.launch()
    known = args.resume == "yes"
    if args.resume == "auto":
        begun = [model_dir / name / "config.json", *(model_dir / name).glob("fold-*/config.json")]
        args.resume = "yes" if any(file.is_file() for file in begun) else "no"
        known = args.resume == "yes" or run_folder.is_bare(model_dir / name)  # bare: killed before it wrote anything
    path = model_dir / name if known else launcher.broadcast(RANK == 0 and run_folder.create(model_dir, name))
    if not path.is_dir():
        raise UserError(f"--resume: there is no run {name} in {model_dir}; start it without --resume")
    if path.name != name.split("/")[-1]:
        say(f"a run {name} is there already: this one is {path.name}")
    try:
        if args.folds and args.fold is None:
            best, where = train_folds(args, frame, split, path, launcher), "out of fold"
        else:
            best, _ = train(args, frame, split, args.fold or 0, path, launcher)
            where = f"epoch {best['epoch']}"
    except UserError:
        run_folder.remove_if_empty(path)
        raise
    except RuntimeError as error:
        if not machine.is_out_of_memory(error):
            raise
        raise UserError(f"--batch_size {args.batch_size} does not fit in memory; lower it (--accumulate keeps the effective batch), "
                        "or use --checkpointing yes or a smaller --resize") from None
    if launcher.is_global_zero:
        write_json(model_dir / "latest.json", {"run": str(path.relative_to(model_dir))})
    if "macro_f1" in best:
        if args.report == "yes" and launcher.is_global_zero:
            from report import run_page

            say(f"report: {run_page(path)}")
        say(f"\nvalidation macro-F1 {best['macro_f1']:.4f} ({where}), accuracy {best['accuracy']:.4f}")
    say(f"run folder: {path}\nnext: sh inference.sh --name {path.relative_to(model_dir)}")
    return 0


if __name__ == "__main__":
    run(main, ARGS)
