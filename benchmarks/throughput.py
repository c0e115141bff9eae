"""How close training and inference come to the machine's limit.

One process, one run, the same model, batch and precision:

    python benchmarks/throughput.py --quick        two cores, under 5 minutes
    python benchmarks/throughput.py --model SwinTransformerLarge384 \\
        --batch_size 64 --compile --json figures.json                   a GPU

  bare    the model alone, on photos already in the device's memory;
          in inference as inference.py runs it, with batch norms folded
  ours    train.py's epoch and the Predictor; in training the decoded crops are
          in memory, as they are from the second epoch on if they fit
  first   train.py's first epoch, from the files
  plain   the loop as tutorials write it: fp32, PIL and torchvision, a default
          DataLoader, loss.item() in every step; with memory kept as in ours
  timm    timm's loader, optimizer and schedule in the order of its train.py, on
          an ImageFolder of the 18 classes; precision and layout as ours
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.files import write_json  # noqa: E402
from core.processes import cores  # noqa: E402

os.environ.setdefault("OMP_NUM_THREADS", str(cores()))  # all loops alike, whatever else runs
INFERENCE = 4  # inference takes about a quarter of the time that training does


def parse_args() -> argparse.Namespace:
    p = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    p.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    p.add_argument(
        "--model",
        help="any timm model (default: SwinTransformerLarge384 on a GPU, else mobilenetv2_100)",
    )
    p.add_argument(
        "--resize",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels (default: the model's own)",
    )
    p.add_argument("--batch_size", type=int, default=32)
    p.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="precision of bare and ours",
    )
    p.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "last", "first"),
        help="memory format of bare and ours, channels last or first",
    )
    p.add_argument("--compile", action="store_true", help="compile the model of bare and ours")
    p.add_argument("--workers", type=int, help="loader workers of ours (default: as train.py)")
    p.add_argument("--data_dir", help="train folder (default: synthetic faces, 512 x 384 JPEGs)")
    p.add_argument(
        "--steps",
        type=int,
        default=20,
        help=f"training steps in a repetition; {INFERENCE} times as many in inference",
    )
    p.add_argument("--repeats", type=int, default=10, help="repetitions of each loop, in turn")
    p.add_argument(
        "--vote_rows",
        type=int,
        nargs="*",
        default=[62_500, 250_000, 1_000_000],
        help="rows of each of the eight CSVs in the vote",
    )
    p.add_argument(
        "--job_epochs",
        type=int,
        default=4,
        metavar="N",
        help="epochs of the sample set's trainings, alone and two at once; 0: none",
    )
    p.add_argument("--quick", action="store_true", help="5 repetitions of 4 steps")
    p.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    args = p.parse_args()
    if args.quick:
        args.steps, args.repeats = 4, 5
    if min(args.batch_size, args.steps, args.repeats, *args.vote_rows, 1) < 1:
        p.error("give numbers above 0")
    if args.batch_size % 2:
        p.error(f"--batch_size {args.batch_size}: give an even number, for two halves at once")
    return args


def main(args) -> int:
    import torch

    from benchmarks import programs
    from core import device

    kind = device.accelerator(args.device)
    args.model = args.model or ("SwinTransformerLarge384" if kind == "cuda" else "mobilenetv2_100")
    if kind != "cuda" and not args.resize:
        args.resize = [224, 224]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        figures = programs.jobs(work, args.job_epochs) if args.job_epochs else {}
        if not args.data_dir:
            flags = "--people 40 --eval_people 2 --size 384 512".split()
            command = [sys.executable, ROOT / "prepare.py", "sample", work / "sample", *flags]
            subprocess.run(command, check=True, capture_output=True)
            args.data_dir = str(work / "sample" / "train")
        figures |= measure(args, work)
        figures["vote"] = [programs.vote(rows, work) for rows in args.vote_rows]
    for row in figures["vote"]:
        print(
            f"vote of 8 x {row['rows']:>9,} rows  {row['seconds']:5.1f} s  {row['peak_mb']:5.0f} MB"
        )
    if figures["vote"]:
        last = figures["vote"][-1]
        figures |= {"vote_seconds": last["seconds"], "vote_peak_mb": last["peak_mb"]}
    if args.job_epochs:
        print(
            f"start of the sample's training {figures['start_seconds']:.1f} s, import of torch and "
            f"timm {figures['import_seconds']:.1f} s; two at once: each "
            f"{figures['pair_slowdown']:.1f} times slower"
        )
    figures["torch"] = torch.__version__
    if args.json:
        write_json(Path(args.json), figures)
    return 0


# ---------------------------------------------------------------------------- the loops in turn
def measure(args, work: Path) -> dict:
    from benchmarks import loops
    from benchmarks.programs import Neighbours

    t, frame = loops.set_up(args, work)
    inference, choice = loops.inference_loops(args, t, frame, work)
    functions = {**loops.training_loops(args, t, frame, work), **inference}
    print(
        f"{device_name(t.fabric.device)}; batch {args.batch_size}; {args.repeats} repetitions of "
        f"{args.steps} steps in turn, {INFERENCE} times as many in inference"
    )
    print(f"training in {t.plan.precision}, inference in {choice}\n")
    photos = args.batch_size * args.steps
    speeds = {name: [] for name in functions}
    neighbours = {name: Neighbours() for name in functions}
    for repeat in range(args.repeats + 1):  # the first warms up
        for name, function in functions.items():
            with neighbours[name]:
                seconds = timed(t.fabric.device, function)
            if repeat:
                count = photos * (INFERENCE if name.startswith("inference") else 1)
                speeds[name].append(count / seconds)
    shares = {name: each.shares() for name, each in neighbours.items()}
    loader_speeds, parts = loader_alone(args, t, frame)
    figures = {
        "model": args.model,
        "device": device_name(t.fabric.device),
        "choices": [f"{t.plan.precision}, {t.plan.reason}", choice],
        "batch_size": args.batch_size,
        "images_per_s": speeds,
        "neighbours": shares,
        "loader_ms": parts,
    }
    return figures | report(t, choice, speeds, shares, loader_speeds, parts)


def timed(device, function) -> float:
    import torch

    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


# ---------------------------------------------------------------------------- the loader alone
def loader_alone(args, t, frame) -> tuple[list[float], dict[str, float]]:
    """Photos a second of train.py's loader for each process; milliseconds of its parts a photo."""
    import numpy as np
    from PIL import Image
    from torch.utils.data import default_collate

    from benchmarks.loops import endless
    from core import photo
    from training.augmentation import augmentation as create_augmentation
    from training.data import TrainingPhotos

    size, crop = t.plan.resize, t.args.crop
    paths = [frame["path"][row % len(frame)] for row in range(64)]
    augmentation = create_augmentation(t.args.augmentation)
    loaded = [photo.load_photo(path, size, crop) for path in paths]

    def each(function, items) -> float:
        times = []
        for item in items:
            start = time.perf_counter()
            function(item)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    generator = np.random.default_rng(0)
    batch = [(pixels, 0) for pixels in loaded]
    parts = {
        "read the file": each(lambda path: Path(path).read_bytes(), paths),
        "read, decode, crop, resize": each(lambda p: photo.load_photo(p, size, crop), paths),
        "(decoding whole, by Pillow)": each(
            lambda path: np.asarray(Image.open(path).convert("RGB")), paths
        ),
        "augment": each(lambda pixels: augmentation(pixels, generator), loaded),
        "collate": each(default_collate, [batch] * 5) / len(paths),
    }
    workers = t.photos.loader.num_workers
    photos = TrainingPhotos(frame, t.args, t.plan, t.fabric, workers, cache=False)
    batches, speeds = endless(photos.batches(0, 0)), []
    for _ in range(args.repeats):
        start = time.perf_counter()
        for _ in range(args.steps):
            next(batches)
        seconds = time.perf_counter() - start
        speeds.append(args.steps * args.batch_size / seconds / max(1, workers))
    return speeds, parts


# ---------------------------------------------------------------------------- what comes out
def device_name(device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")  # Linux
    names = (
        [line.partition(":")[2].strip() for line in info.open() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return f"{names[0] if names else device.type}, {torch.get_num_threads()} threads"


def report(t, choice, speeds, shares, loader_speeds, parts) -> dict:
    """Print the tables; the figures that come from several loops."""
    from benchmarks.peak import ceiling, flops
    from core.memory import peak_memory

    operations = flops(t.model, t.plan.resize)
    tasks = {"training": (3 * operations, t.plan.precision)}
    tasks["inference"] = (operations, choice.partition(",")[0])
    limits = {task: ceiling(t.fabric.device, precision) for task, (_, precision) in tasks.items()}
    median = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        f"{'loop':17} {'images/s':>8}  {'spread':>16}  {'of bare':>7}  {'MFU':>5}  "
        f"{'others':>6}  {'steal':>5}"
    )
    for name, value in median.items():
        task = name.partition(",")[0]
        share = tasks[task][0] * value / limits[task]
        print(
            f"{name:17} {value:8.1f}  {min(speeds[name]):6.1f} to {max(speeds[name]):6.1f}  "
            f"{ratio(speeds[name], speeds[f'{task}, bare']):7.2f}  {share:5.1%}  "
            f"{shares[name]['others']:6.0%}  {shares[name]['steal']:5.1%}"
        )
    loader = statistics.median(loader_speeds)
    print(f"\nloader alone: {loader:.0f} images/s in a process")
    for name, milliseconds in parts.items():
        print(f"  {name:28} {milliseconds:6.2f} ms a photo")
    memory = peak_memory(t.fabric.device)
    print(
        f"\n{operations / 1e9:.2f} GFLOP a photo forward; matrix products reach "
        + " and ".join(f"{limit / 1e12:.2f} TFLOP/s ({task})" for task, limit in limits.items())
        + f"; peak memory {memory:.1f} GB, all loops together\n"
    )
    ratios = {
        f"{key}_vs_{other}": ratio(speeds[f"{task}, ours"], speeds[f"{task}, {other}"])
        for key, task in (("train", "training"), ("infer", "inference"))
        for other in ("bare", "plain", "timm")
        if f"{task}, {other}" in speeds
    }
    ratios["loader_vs_train"] = loader / median["training, ours"]
    for name, value in ratios.items():
        print(f"{name:16} {value:.2f}")
    return {
        **ratios,
        "gflop_per_photo": operations / 1e9,
        "ceiling_tflops": {task: limit / 1e12 for task, limit in limits.items()},
        "peak_memory_gb": memory,
    }


def ratio(ours, other) -> float:
    """Median of the ratios within each repetition: a busy minute slows both."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


if __name__ == "__main__":
    run(main, parse_args())
