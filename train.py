"""Train one model on a folder of people, or one for each of K folds.

    python train.py --data_dir /data/train --name swin                     one GPU, or the CPU
    torchrun --standalone --nproc_per_node=8 train.py --devices 8          eight GPUs
    python train.py --data_dir /data/train --name swin --resume            go on after an interruption

What a run leaves is in MODEL_DIR/NAME: config.json, split.csv, metrics.csv, val_predictions.csv, best.safetensors, last.ckpt.
"""

from training import settings

if __name__ == "__main__":  # before the heavy imports, so that --help answers at once
    ARGS = settings.parse_or_exit()

import copy
import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3

import dataset
from core import device, memory, metrics, processes
from core.backbone import backbone_config
from core.cli import run
from core.errors import UserError
from core.files import write_json
from core.folders import folder, is_drawn, safe_name
from core.labels import encode
from core.processes import RANK, cores
from core.progress import progress, say
from loss import create_criterion
from model import MaskClassifier, load_pretrained
from prediction import tables
from prediction.fold_batch_norms import fold_batch_norms
from prediction.model_file import save_model, set_offsets
from prediction.predict import predict, to_model
from training import augmentation, run_folder
from training.checkpoint import restore, save
from training.data import build_loader, part, read_data
from training.log import build_loggers, epoch_line, log_pictures
from training.optimizer import build_optimizer, build_schedule
from training.split import sampling_weights, write_split
from training.step import mix, total_loss, train_mode
from training.stop import Stop, agreed


# ---------------------------------------------------------------------------- model, optimizer, schedule
def build_model(args, train_frame) -> MaskClassifier:
    """The model at its start: backbone, head, weights, and all that inference will need to know."""
    keywords = settings.keywords(args.model_kwargs)
    config = backbone_config(args.model)
    args.resize = args.resize or (config["resize"] if config["fixed"] else [256, 192])
    if args.statistics == "measured":
        config["mean"], config["std"] = dataset.pixel_statistics(
            train_frame["path"], args.resize, args.crop
        )
    model = MaskClassifier(
        args.model,
        args.head,
        args.resize,
        args.mean or config["mean"],
        args.std or config["std"],
        keywords,
        crop=args.crop,
        bands=args.bands,
        drop=args.drop,
        tta=args.tta,
        drawn=is_drawn(Path(args.data_dir)),
        macro_f1=None,
    )
    weights = load_pretrained(model, args.pretrained, args.pretrained_partial == "yes")
    freeze = args.freeze if args.freeze is not None else 2 * (args.pretrained != "no")
    if freeze:
        groups = timm.models.group_parameters(
            model.backbone, model.backbone.group_matcher(coarse=True)
        )
        for group in sorted(groups)[:freeze]:
            for name in groups[group]:
                model.backbone.get_parameter(name).requires_grad_(False)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    size = f"{args.resize[0]} x {args.resize[1]}"
    say(
        f"model: {args.model}, {args.head} head, {parameters:.1f} M parameters, input {size}, weights: {weights}"
    )
    return model


# ---------------------------------------------------------------------------- one run
def train(
    args, frame, split, fold, path: Path, launcher: Fabric, choice=None
) -> tuple[dict, device.Choice]:
    """Train one model in the run folder `path`: the metrics of its best epoch (only `epoch` where nothing is held out), and the choice.

    `launcher` has started the other processes, if any; what is measured on the first of them holds for all. A `choice` of precision
    and so on that was made before is kept.
    """
    train_frame, val_frame = part(frame, split, fold, args)
    labels = val_frame["label"].to_numpy()
    criterion = create_criterion(
        args.criterion, args.smoothing, args.gamma, args.f1_share, args.f1_memory
    )
    torch.manual_seed(args.seed)
    model = build_model(args, train_frame)

    # the machine
    kind = device.accelerator(args.accelerator)
    device.keep_memory(kind)
    resumed = (
        args.resume == "yes"
        and (path / "config.json").is_file()
        and run_folder.check_same_run(path, args)
    )
    if resumed:
        choice = device.Choice(**resumed)
    elif choice is None:
        if kind == "cpu" and "auto" in (args.precision, args.layout):
            say("measuring which precision and memory layout are fastest here")
        choice = launcher.broadcast(device.choose(model, kind, args, training=True))
    fabric = Fabric(
        accelerator=kind,
        devices=args.devices,
        num_nodes=args.nodes,
        precision=choice.fabric_precision,
        loggers=build_loggers(args.logger, path),
    )
    fabric.launch()
    if (
        choice.threads
    ):  # as when the run began: another number adds up in another order, to other bits
        torch.set_num_threads(min(choice.threads, cores()))
    workers = processes.readers(kind, args.workers)
    micro, accumulate = args.batch_size // choice.split, args.accumulate * choice.split
    if choice.checkpointing:
        model.backbone.set_grad_checkpointing(True)
    device.fuse_attention(model, kind, training=True)
    if choice.channels_last:
        model = model.to(memory_format=torch.channels_last)
    whole = all(parameter.requires_grad for parameter in model.parameters())
    of_peak = (
        device.share_of_peak(model, fabric.device, choice.precision)
        if kind == "cuda" and whole
        else None
    )
    say(f"device: {kind} x {fabric.world_size}, {choice}, {workers} workers")

    # data: pixels travel as uint8 with their row; labels and ages wait on the device
    cache = memory.cache_fits(len(frame), args.resize, args.cache)
    ranks = {"rank": fabric.global_rank, "ranks": fabric.world_size}
    photos = dataset.Photos(
        train_frame["path"],
        args.resize,
        args.crop,
        augmentation.augmentation(args.augmentation, size=tuple(args.resize)),
        args.seed,
        cache,
    )
    weights = sampling_weights(train_frame["label"].to_numpy(), args.sampling)
    sampler = dataset.EpochSampler(len(photos), args.seed, weights, **ranks)
    loader = build_loader(
        photos, sampler, micro, workers, fabric.device, drop_last=len(sampler) >= micro
    )
    val_photos = dataset.Photos(val_frame["path"], args.resize, args.crop, cache=cache)
    val_sampler = dataset.EpochSampler(len(val_photos), shuffle=False, **ranks)
    ways = processes.at_a_time(kind, workers)
    val_loader = build_loader(
        val_photos, val_sampler, -(-args.valid_batch_size // ways), workers, fabric.device
    )
    train_labels = encode(
        train_frame["mask"], train_frame["gender"], train_frame["age"], args.bands
    )
    train_labels = torch.tensor(train_labels.to_numpy(copy=True), device=fabric.device)
    ages, masks = (
        torch.tensor(train_frame["age"].to_numpy(copy=True), device=fabric.device),
        train_frame["mask"].to_numpy(),
    )

    # model, optimizer, schedule
    steps = max(
        accumulate, len(loader) // accumulate * accumulate
    )  # photos short of a whole update wait for another epoch
    optimizer = build_optimizer(model, args, fused=choice.precision != "fp16")
    set_lr, line = build_schedule(optimizer, args, steps // accumulate)
    if choice.compiled is None:
        choice.compiled = device.compiles(args.compile, kind, args.epochs * steps, worth=5000)
    net, optimizer = fabric.setup(torch.compile(model) if choice.compiled else model, optimizer)
    ema = ModelEmaV3(model, args.ema, use_warmup=True) if args.ema else None
    kept = ema.module if ema else model  # the weights that are validated and kept
    criterion = criterion.to(fabric.device).train()
    say(line)
    say(
        f"loss: {args.criterion}; {len(train_frame):,} photos to train on, {len(val_frame):,} to validate on"
        f"{', compiled' if choice.compiled else ''}; run folder {path}"
    )
    state = {"epoch": 0, "step": 0, "total": [0.0] * fabric.world_size, "rows": [], "best": {}}
    parts = {
        "model": model,
        "optimizer": optimizer,
        "criterion": criterion,
        "precision": fabric.strategy.precision,
    }
    parts |= {"ema": ema.module} if ema else {}
    if resumed and (path / "last.ckpt").is_file():
        state = restore(path, state, parts)
        say(f"resumed after epoch {state['epoch']}, step {state['step']}")
    elif fabric.is_global_zero:
        run_folder.check_space(path, model, args)
        run_folder.write_config(path, args, choice, fabric)
        write_split(split, path / "split.csv")
        if args.logger == "wandb":
            fabric.logger.log_hyperparams(vars(args))
    stop = Stop()
    scaler = getattr(
        fabric.strategy.precision, "scaler", None
    )  # of fp16: it halves its scale and leaves an update out when one overflows
    scale = scaler.get_scale() if scaler else 1.0

    for epoch in range(state["epoch"], args.epochs):
        train_mode(model)
        start = saved = time.perf_counter()
        sampler.epoch, sampler.start = epoch, state["step"] * micro
        total = torch.tensor(
            state["total"][fabric.global_rank], device=fabric.device
        )  # of this process
        overflows = 0
        first_bad = torch.full((), -1, device=fabric.device)  # the step whose loss was no number
        optimizer.zero_grad()
        bar = progress(
            loader,
            steps,
            f"epoch {epoch + 1}/{args.epochs}",
            "step",
            fabric.is_global_zero,
            state["step"],
        )
        for step, (pixels, rows) in zip(range(state["step"], steps), bar, strict=False):
            generator = np.random.default_rng((args.seed, epoch, step, fabric.global_rank))
            images = to_model(pixels, fabric.device, choice.channels_last)
            images, blend = mix(images, masks[rows], args, generator)
            rows = rows.to(fabric.device, non_blocking=True)
            update = (step + 1) % accumulate == 0
            with fabric.no_backward_sync(net, enabled=not update):
                output = net(images, return_years=True)
                loss = total_loss(output, train_labels[rows], ages[rows], blend, criterion, args)
                fabric.backward(loss / accumulate)
            total += loss.detach()
            first_bad = torch.where((first_bad < 0) & ~torch.isfinite(loss), step, first_bad)
            if update:
                if args.clip:
                    fabric.clip_gradients(
                        net, optimizer, max_norm=args.clip, error_if_nonfinite=False
                    )
                optimizer.step()
                optimizer.zero_grad()
                done = (epoch * steps + step + 1) // accumulate
                lr = set_lr(done)
                if ema:
                    ema.update(model, step=done)
            look = (step + 1) % args.log_interval == 0 or step + 1 == steps
            leave = (
                update
                and step + 1 < steps
                and (look or fabric.world_size == 1)
                and agreed(
                    stop.asked or time.perf_counter() - saved > args.save_interval * 60, fabric
                )
            )
            if look or leave:  # the only place in the loop that waits for the device
                mean = fabric.all_reduce(total, reduce_op="mean").item() / (step + 1)
                if not math.isfinite(mean):
                    bad = first_bad.item()
                    seen = (
                        [
                            train_frame["path"].iloc[row]
                            for _, row, _ in sampler.of_epoch(epoch)[bad * micro :][:micro]
                        ]
                        if bad >= 0
                        else []
                    )
                    raise UserError(
                        f"the loss is {mean} since step {bad + 1} of epoch {epoch + 1}; lower --lr, use --precision fp32, or "
                        f"look at the step's photos: {', '.join(seen) or 'named by another process'}"
                    )
                if scaler:
                    overflows += round(max(0.0, math.log2(scale / scaler.get_scale())))
                    scale = scaler.get_scale()
                speed = (
                    (step + 1 - state["step"])
                    * micro
                    * fabric.world_size
                    / (time.perf_counter() - start)
                )
                bar.set_postfix(loss=f"{mean:.3f}", img_s=f"{speed:.0f}")
            if leave:
                save(
                    path,
                    fabric,
                    parts,
                    state
                    | {
                        "epoch": epoch,
                        "step": step + 1,
                        "total": fabric.all_gather(total).flatten().tolist(),
                    },
                )
                saved = time.perf_counter()
                stop.obey(path, fabric)
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "loss": mean,
            "images_per_s": speed,
            "seconds": time.perf_counter() - start,
            "memory_gb": memory.peak_memory(fabric.device),
        }
        row |= ({"fp16_overflows": overflows} if scaler else {}) | (
            {"mfu": speed / fabric.world_size * of_peak} if of_peak else {}
        )

        if len(val_frame):
            answering = kept
            if kind == "cpu":
                fold_batch_norms(answering := copy.deepcopy(kept))
            log_probabilities = predict(
                answering,
                val_loader,
                len(val_frame),
                fabric,
                choice.channels_last,
                args.tta,
                device.answering_precision(kind),
                ways,
            )
            row |= metrics.score(labels, log_probabilities.argmax(axis=1))
        state["rows"].append(row)
        better = row.get("macro_f1", 0) >= state["best"].get("macro_f1", 0) or not len(val_frame)
        if better:
            state["best"] = row
        state |= {"epoch": epoch + 1, "step": 0, "total": [0.0] * fabric.world_size}
        if fabric.is_global_zero:
            tables.write_table(path / "metrics.csv", pd.DataFrame(state["rows"]))
            if better:
                scores = {
                    key: row[key]
                    for key in ("macro_f1", "accuracy", "mask", "gender", "age")
                    if key in row
                }
                save_model(kept, path / "best.safetensors", epoch=epoch + 1, **scores)
                if len(val_frame):
                    tables.write_predictions(path, val_frame, log_probabilities)
            fabric.log_dict(
                {key: float(value) for key, value in row.items() if key != "epoch"}, step=epoch + 1
            )
            if args.logger != "csv" and len(val_frame):
                log_pictures(fabric.logger, val_frame, log_probabilities, epoch + 1)
        save(path, fabric, parts, state)
        if fabric.is_global_zero:
            run_folder.keep_checkpoints(path, epoch + 1, args.keep)
        say(
            epoch_line(row, args.epochs, time.perf_counter() - start)
            + ("  *" if better and len(val_frame) else "")
        )
        stop.obey(path, fabric)
    stop.forget()
    return state["best"], choice


def train_folds(args, frame, split, path: Path, launcher: Fabric) -> dict:
    """One model a fold in path/fold-0, ...; in `path` their out-of-fold predictions and score, and the offsets tuned on them."""
    choice = None
    for fold in range(args.folds):
        say(f"\nfold {fold} of {args.folds}")
        (path / f"fold-{fold}").mkdir(exist_ok=True)
        _, choice = train(args, frame, split, fold, path / f"fold-{fold}", launcher, choice)
    if not launcher.is_global_zero:
        return {}
    parts = [tables.read_predictions(path / f"fold-{fold}")[0] for fold in range(args.folds)]
    number = np.repeat(np.arange(args.folds), [len(part) for part in parts])
    tables.write_table(path / "val_predictions.csv", pd.concat(parts, ignore_index=True))
    write_split(split, path / "split.csv")
    table, log_probabilities = tables.read_predictions(path)
    best = metrics.score(labels := table["label"].to_numpy(), table["ans"].to_numpy())
    offsets, before, after = metrics.cross_fitted_offsets(log_probabilities, labels, number)
    used = args.offsets == "yes" or (args.offsets == "auto" and after > before + 0.002)
    say(
        f"offsets tuned for macro-F1 would take it from {before:.4f} to {after:.4f} (each fold with those of the others): "
        f"{'kept in the model files' if used else 'left out'}"
    )
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
    launcher = Fabric(
        accelerator=device.accelerator(args.accelerator), devices=args.devices, num_nodes=args.nodes
    )
    launcher.launch()
    known = args.resume == "yes"
    if args.resume == "auto":
        begun = [model_dir / name / "config.json", *(model_dir / name).glob("fold-*/config.json")]
        args.resume = "yes" if any(file.is_file() for file in begun) else "no"
        known = args.resume == "yes" or run_folder.is_bare(
            model_dir / name
        )  # bare: killed before it wrote anything
    path = (
        model_dir / name
        if known
        else launcher.broadcast(RANK == 0 and run_folder.create(model_dir, name))
    )
    if not path.is_dir():
        raise UserError(
            f"--resume: there is no run {name} in {model_dir}; start it without --resume"
        )
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
        if not memory.is_out_of_memory(error):
            raise
        raise UserError(
            f"--batch_size {args.batch_size} does not fit in memory; lower it (--accumulate keeps the effective batch), "
            "or use --checkpointing yes or a smaller --resize"
        ) from None
    if launcher.is_global_zero:
        write_json(model_dir / "latest.json", {"run": str(path.relative_to(model_dir))})
    if "macro_f1" in best:
        if args.report == "yes" and launcher.is_global_zero:
            from reporting.run import run_page

            say(f"report: {run_page(path)}")
        say(
            f"\nvalidation macro-F1 {best['macro_f1']:.4f} ({where}), accuracy {best['accuracy']:.4f}"
        )
    say(f"run folder: {path}\nnext: sh inference.sh --name {path.relative_to(model_dir)}")
    return 0


if __name__ == "__main__":
    run(main, ARGS)
