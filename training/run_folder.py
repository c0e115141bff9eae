"""One run's folder, MODEL_DIR/NAME: its making, its files, and the checkpoint a run goes on from."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from core.errors import UserError
from core.files import atomic, read_json, write_json
from core.folders import ROOT

# Flags that may differ when a run goes on: they do not change what is computed.
FREE = {
    "resume",
    "name",
    "model_dir",
    "config",
    "recipe",
    "workers",
    "cache",
    "log_interval",
    "logger",
    "save_interval",
    "check_photos",
    "valid_batch_size",
    "data_dir",
    "split",
    "keep",
    "report",
}


def create(model_dir: Path, name: str) -> Path:
    """MODEL_DIR/NAME, or NAME-2, NAME-3, ... if that is taken. Made here, so that two runs started at once do not share one."""
    for number in range(1, 10_000):
        path = model_dir / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if model_dir.is_file():
                raise UserError(f"--model_dir: {model_dir} is a file, not a folder") from None
            continue
        except OSError as error:
            raise UserError(f"--model_dir: {path} cannot be made ({error.strerror})") from None
        return path
    raise UserError(f"--name {name}: taken 9,999 times; take another name")


def remove_if_empty(path: Path) -> None:
    """Take away a run folder in which nothing was written, so that a command that was refused leaves its name free."""
    if is_bare(path):
        shutil.rmtree(path)


def is_bare(path: Path) -> bool:
    """Whether a run folder is there and holds no file, but for what was being written when its process was killed."""
    return path.is_dir() and not any(
        item.is_file() and not item.name.startswith(".") for item in path.rglob("*")
    )


def write_config(path: Path, args, choice, fabric) -> None:
    """config.json: every flag, what was chosen at start-up, the versions, the code's revision and the device."""
    packages = ("torch", "timm", "lightning_fabric", "albumentations", "numpy", "pandas", "PIL")
    versions = {name: sys.modules[name].__version__ for name in packages if name in sys.modules}
    write_json(
        path / "config.json",
        {
            "settings": vars(args),
            "choices": vars(choice),
            "versions": {"python": platform.python_version(), **versions},
            "revision": revision(),
            "device": torch.cuda.get_device_name()
            if fabric.device.type == "cuda"
            else platform.machine(),
            "processes": fabric.world_size,
        },
    )


def revision() -> str:
    """The git commit of this code; "unknown" without git, or in a folder that is no checkout."""
    command = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def keep_checkpoints(path: Path, epoch: int, keep: int) -> None:
    """Keep last.ckpt as epoch-N.ckpt too, and of those the last `keep`."""
    if not keep:
        return
    kept = path / f"epoch-{epoch:04d}.ckpt"
    try:
        kept.unlink(missing_ok=True)
        kept.hardlink_to(
            path / "last.ckpt"
        )  # the next last.ckpt is another file under the same name
    except OSError:  # a file system without hard links
        with atomic(kept) as temporary:
            shutil.copyfile(path / "last.ckpt", temporary)
    for old in sorted(path.glob("epoch-*.ckpt"))[:-keep]:
        old.unlink()


def check_space(path: Path, model, args) -> None:
    """UserError if the disk is too small for the run: weights, average, two moments; each file is written beside its old self."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoint = weights * (3 + bool(args.ema))
    need, free = checkpoint * (2 + args.keep) + 2 * weights, shutil.disk_usage(path).free
    if need > free:
        raise UserError(
            f"{path}: the run needs about {need / 1e6:,.0f} MB of disk, {free / 1e6:,.0f} MB are free; make room"
            + (", lower --keep" if args.keep else "")
            + " or give another --model_dir"
        )


def check_same_run(path: Path, args) -> dict:
    """The choices of the run in `path`, which `args` would go on with; UserError naming a flag that would make it another run."""
    config = read_json(path / "config.json")
    for key, value in config["settings"].items():
        if key not in FREE and vars(args).get(key) != value:
            raise UserError(
                f"--resume: the run in {path} had --{key} {value}, now it is {vars(args).get(key)}; leave it as it was, "
                "or start another run with --config"
            )
    return config["choices"]
