"""A run's folder, MODEL_DIR/NAME: how it is made or found again, and the files that describe it."""

import hashlib
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from core.errors import UserError, counted
from core.files import atomic, lock, read_csv, read_json, write_json
from core.folders import ROOT, run_parts, safe_name
from core.listing import readable
from core.progress import say
from training.checkpoint import load_checkpoint
from training.split import read_split, split_people

# Flags that may differ when a run is resumed: they do not change what is computed.
FREE = {
    *("resume", "name", "model_dir", "config", "recipe", "workers", "cache", "log_interval"),
    *("logger", "save_interval", "check_photos", "on_error", "valid_batch_size", "data_dir"),
    *("split", "keep", "report", "patience", "checkpointing", "compile", "members", "extra"),
}
LABELS = ("mask", "gender", "age")
PATIENCE = 60  # seconds for another process to end that was asked to stop and is saving
LOCKS = []  # files that are held until this process ends


def open_run(args, frame: pd.DataFrame, extra, model_dir: Path) -> tuple[Path, pd.DataFrame]:
    """Folder and split of the run that the flags ask for: found again, or made anew.

    For rank 0 alone: two ranks that look at the folder by themselves can see different things.
    """
    path = model_dir / safe_name(args.name)
    begun = [item for item in (path, *run_parts(path)) if has_begun(item)]
    if args.resume != "no" and begun:
        hold(path)
        remove_unfinished(path)
        split = split_of_run(begun[0], args, frame, extra)
        recorded_choices(begun[0], args)  # refuses other flags, such as folds where there are none
        members = len(list(path.glob("member-*"))) or None
        if bool(members) != bool(args.members) or (members and members > args.members):
            raise UserError(  # more may be added
                f"--resume: the run in {path} had --members {members}, now it is {args.members}; "
                "leave it as it was, or start another run with --config"
            )
        return path, split
    if args.resume == "yes" and not path.is_dir():
        raise UserError(
            f"--resume: there is no run {args.name} in {model_dir}; start it without --resume"
        )
    if args.split:
        split = read_split(Path(args.split), frame)
    else:
        split = split_people(frame, args.seed, args.folds, args.val_ratio)
    unwritten = args.resume == "auto" and is_bare(path)  # stopped before anything was written
    if args.resume != "yes" and not unwritten:
        path = create(model_dir, args.name)
    hold(path)
    return path, split


def hold(path: Path) -> None:
    """Keep other processes from training in this run folder.

    UserError if one is at it, or if the folder cannot be written to.
    """
    file = path / ".lock"
    try:
        stream = lock(file)
        if stream is None:
            say(f"{path}: another process is training this run; waiting for it to end")
            stream = lock(file, PATIENCE)
    except OSError as error:
        raise UserError(f"{path}: cannot be written to ({error.strerror})") from None
    if stream is None:
        raise UserError(
            f"--resume: another process is training {path.name}; stop it, or let it end"
        )
    LOCKS.append(stream)


def has_begun(path: Path) -> bool:
    return (path / "config.json").is_file()


def has_checkpoint(path: Path) -> bool:
    return (path / "last.ckpt").is_file()


def remove_unfinished(path: Path) -> None:
    """Remove files that were being written when a process was killed, each a checkpoint's size.

    Not those of the last minutes: a process that was asked to stop may be saving still.
    """
    for file in path.rglob(".*.part*"):
        if time.time() - file.stat().st_mtime > 300:
            file.unlink(missing_ok=True)


def create(model_dir: Path, name: str) -> Path:
    """Make MODEL_DIR/NAME, or NAME-2, NAME-3, ... if that is taken.

    Made at once, so that two runs started at the same time do not share a folder.
    """
    for number in range(1, 10_000):
        path = model_dir / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if model_dir.is_file():
                raise UserError(f"--model_dir: {model_dir} is a file, not a folder") from None
            continue
        except OSError as error:
            raise UserError(f"--model_dir: cannot make {path} ({error.strerror})") from None
        return path
    raise UserError(f"--name {name}: taken 9,999 times; take another name")


def remove_if_empty(path: Path) -> None:
    """Remove a run folder in which nothing was written: a refused command leaves its name free."""
    if is_bare(path):
        shutil.rmtree(path)


def is_bare(path: Path) -> bool:
    """Whether a run folder exists, and nothing in it but what is written before config.json."""
    files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else []
    unfinished = [file.name.startswith(".") or file.name == "split.csv" for file in files]
    return path.is_dir() and all(unfinished)


# ---------------------------------------------------------------------------- config.json
def write_config(path: Path, args, plan, data, fabric) -> None:
    """config.json: flags, choices made at start-up, the data's digest, versions and device."""
    packages = ("torch", "timm", "lightning_fabric", "albumentations", "numpy", "pandas", "PIL")
    versions = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    on_gpu = fabric.device.type == "cuda"
    write_json(
        path / "config.json",
        {
            "settings": vars(args) | {"resize": plan.resize, "data_dir": str(data.source)},
            "choices": asdict(plan),
            "data": digest(data.frame, data.extra),
            "versions": {"python": platform.python_version(), **versions},
            "revision": revision(),
            "device": torch.cuda.get_device_name() if on_gpu else platform.machine(),
            "processes": fabric.world_size,
            "finished": False,
        },
    )


def mark_finished(path: Path) -> None:
    """Note in config.json that all epochs are trained, which inference looks for."""
    write_json(path / "config.json", read_json(path / "config.json") | {"finished": True})


def revision() -> str:
    """The git commit of this code; "unknown" without git, or in a folder that is no checkout."""
    command = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def digest(frame: pd.DataFrame, extra: pd.DataFrame) -> dict:
    """Fingerprints of which photos there are and of each attribute's labels; of the extra ones."""
    keys = frame["person"] + "/" + frame["photo"]
    columns = {"photos": keys} | {name: keys + " " + frame[name].astype(str) for name in LABELS}
    if len(extra):
        lines = extra["path"].map(lambda path: "/".join(Path(path).parts[-2:]))
        for name in extra.columns.drop("path"):
            lines += " " + extra[name].astype(str)
        columns["extra"] = lines
    result = {"people": int(frame["person"].nunique())}
    for name, lines in columns.items():
        text = "\n".join(sorted(lines))
        result[name] = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return result


def recorded_choices(path: Path, args) -> dict:
    """The choices of the run in `path`; UserError naming a flag that would make it another run."""
    config = read_json(path / "config.json")
    added = {"attribute": None}  # flags that a run of the version before cannot have recorded
    recorded = (added | config["settings"]).items()
    for key, value in sorted(recorded, key=lambda item: item[0] == "lr"):  # follows from the others
        now = vars(args).get(key)
        if key in FREE or key not in vars(args) or now == value:
            continue
        if key == "resize" and now is None:  # the file has what was decided
            continue
        if key == "drop_ages" and value and now == [value]:  # one range, written before version 1.1
            continue
        if key == "offsets" and {now, value} == {"tuned", "yes"}:  # the same, by two names
            continue
        if key == "epochs" and now > value:  # the run is extended, if it is finished
            continue
        raise UserError(
            f"--resume: the run in {path} had --{key} {value}, now it is {now}; leave it as it "
            "was, or start another run with --config"
        )
    choices = {"resize": config["settings"]["resize"]} | config["choices"]
    if args.checkpointing != "auto":
        choices["checkpointing"] = args.checkpointing == "yes"
    if args.compile != "auto":
        choices["compiled"] = None  # decided anew
    if args.epochs > config["settings"]["epochs"]:
        choices["first_epoch"] = _epochs_done(path, config["settings"]["epochs"])
    return choices


def _epochs_done(path: Path, planned: int) -> int:
    """The epochs of a finished run, after which it can be extended; UserError if it is not."""
    if not has_checkpoint(path):
        return 0
    stored = load_checkpoint(path)
    if not stored.get("finished", stored["epoch"] == planned):
        raise UserError(
            f"--epochs: the run in {path} has trained {stored['epoch']} of its {planned} epochs; "
            f"finish it with --epochs {planned} --resume, then extend it"
        )
    return stored["epoch"]


# ---------------------------------------------------------------------------- the run's own data
def split_of_run(path: Path, args, frame: pd.DataFrame, extra) -> pd.DataFrame:
    """split.csv of the run in `path`; UserError if the data are not those that it was begun with.

    Otherwise people who were held out would be trained on.
    """
    split = read_csv(path / "split.csv", ["person", "fold"]).astype({"fold": int})
    split["person"] = split["person"].map(readable)
    before, now = set(split["person"]), set(frame["person"])
    changes = [
        f"{counted(len(people), 'person was', 'people were')} {what}, first {sorted(people)[0]!r}"
        for what, people in (("removed", before - now), ("added", now - before))
        if people
    ]
    recorded, found = read_json(path / "config.json").get("data", {}), digest(frame, extra)
    if not changes:
        changed = [name for name in ("photos", *LABELS) if recorded.get(name, 0) != found[name]]
        if recorded and changed:
            what = "photos were added or removed" if "photos" in changed else None
            changes = [what or f"other labels of {' and '.join(changed)} (corrections?)"]
        elif recorded.get("extra") != found.get("extra"):
            changes = ["other photos or labels in the list of --extra"]
    if not changes and args.split:
        other = read_split(Path(args.split), frame).set_index("person")["fold"]
        if (split.set_index("person")["fold"] != other.reindex(split["person"])).any():
            changes = [f"--split {args.split} holds out other people"]
    if changes:
        raise UserError(
            f"--resume: the data changed since the run in {path} began: {'; '.join(changes)}; "
            "put them back as they were, or start another run"
        )
    return split


# ---------------------------------------------------------------------------- disk
def keep_checkpoints(path: Path, epoch: int, keep: int) -> None:
    """Keep last.ckpt as epoch-N.ckpt too, and of those the last `keep`."""
    if not keep:
        return
    kept = path / f"epoch-{epoch:04d}.ckpt"
    try:
        kept.unlink(missing_ok=True)
        # The next last.ckpt is another file of the same name.
        kept.hardlink_to(path / "last.ckpt")
    except OSError:  # a file system without hard links
        with atomic(kept) as temporary:
            shutil.copyfile(path / "last.ckpt", temporary)
    for old in sorted(path.glob("epoch-*.ckpt"))[:-keep]:
        old.unlink()


def check_space(path: Path, model, args) -> None:
    """UserError if the disk is too small for the run.

    A checkpoint holds weights, average and two moments; each file is written beside its old self.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoint = weights * (3 + bool(args.ema))
    need, free = checkpoint * (2 + args.keep) + 2 * weights, shutil.disk_usage(path).free
    if need > free:
        lower = ", lower --keep" if args.keep else ""
        raise UserError(
            f"{path}: the run needs about {need / 1e6:,.0f} MB of disk, {free / 1e6:,.0f} MB are "
            f"free; make room{lower} or give another --model_dir"
        )
