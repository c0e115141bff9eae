"""How near training and inference come to the machine's limit.

One process, one run, the same model, batch and precision:

    python benchmarks/throughput.py --quick        two cores, under 5 minutes
    python benchmarks/throughput.py --model SwinTransformerLarge384 \\
        --batch_size 64 --compile --json figures.json                   a GPU

  bare    the model alone, on photos that lie in the device's memory already;
          in inference as inference.py runs it, batch norms folded
          (unfolded: as it was trained)
  ours    train.py's and inference.py's steps, fed by their loader; in training
          the decoded crops are in memory, as they are there from the second
          epoch on where they fit
  first   train.py's steps in the first epoch, from the files
  plain   the loop as tutorials write it: fp32, PIL and torchvision, a default
          DataLoader, loss.item() in every step; with memory kept as in ours
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.cli import ArgumentParser, HelpFormatter, run  # noqa: E402
from core.errors import UserError  # noqa: E402
from core.files import write_json  # noqa: E402

ANSWERING = 4  # inference takes about a quarter of the time that training does


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
        help="input, pixels (default: the model's own)",
    )
    p.add_argument("--batch_size", type=int, default=32)
    p.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bf16", "fp16", "fp32"),
        help="of bare and ours",
    )
    p.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "last", "first"),
        help="channels in memory, of bare and ours",
    )
    p.add_argument("--compile", action="store_true", help="compile the model of bare and ours")
    p.add_argument(
        "--workers", type=int, help="processes that read photos, of ours (default: as train.py)"
    )
    p.add_argument(
        "--memory",
        default="kept",
        choices=("kept", "returned"),
        help="freed memory on a CPU: kept for the next tensor, as train.py does, or returned to "
        "the system",
    )
    p.add_argument("--data_dir", help="train folder (default: drawn here, 512 x 384 JPEGs)")
    p.add_argument(
        "--steps",
        type=int,
        default=20,
        help=f"of training in a repetition; {ANSWERING} times as many of inference",
    )
    p.add_argument("--repeats", type=int, default=5, help="repetitions of each loop, in turn")
    p.add_argument(
        "--vote_rows",
        type=int,
        nargs="*",
        default=[62_500, 250_000, 1_000_000],
        help="rows of the eight CSVs that are voted",
    )
    p.add_argument("--quick", action="store_true", help="3 repetitions of 4 steps")
    p.add_argument("--json", metavar="FILE", help="the same figures for programs")
    args = p.parse_args()
    if args.quick:
        args.steps, args.repeats = 4, 3
    if min(args.batch_size, args.steps, args.repeats, *args.vote_rows, 1) < 1:
        p.error("give numbers above 0")
    if args.batch_size % 2:
        p.error(f"--batch_size {args.batch_size}: give an even number; on a CPU it is split in two")
    return args


def main(args) -> int:
    with tempfile.TemporaryDirectory() as work:
        if not args.data_dir:
            subprocess.run(
                [
                    sys.executable,
                    ROOT / "prepare.py",
                    "sample",
                    f"{work}/sample",
                    "--people",
                    "40",
                    "--eval_people",
                    "2",
                    "--size",
                    "384",
                    "512",
                ],
                check=True,
                capture_output=True,
            )
            args.data_dir = f"{work}/sample/train"
        figures = measure(args)
        figures["vote"] = [vote(rows, Path(work)) for rows in args.vote_rows]
    for row in figures["vote"]:
        print(
            f"vote of 8 x {row['rows']:>9,} rows  {row['seconds']:5.1f} s  {row['peak_mb']:5.0f} MB"
        )
    if figures["vote"]:
        figures |= {
            "vote_seconds": figures["vote"][-1]["seconds"],
            "vote_peak_mb": figures["vote"][-1]["peak_mb"],
        }
    if args.json:
        write_json(Path(args.json), figures)
    return 0


# -------------------------------------------------------------------------------- the three loops


def measure(args) -> dict:
    import torch
    from lightning_fabric import Fabric

    import dataset
    from core import device
    from training import settings, startup

    kind = device.accelerator(args.device)
    args.model = args.model or ("SwinTransformerLarge384" if kind == "cuda" else "mobilenetv2_100")
    size = (
        ["--resize", *map(str, args.resize)]
        if args.resize
        else []
        if kind == "cuda"
        else ["--resize", "224", "224"]
    )
    options = settings.parse(
        [
            "--data_dir",
            args.data_dir,
            "--model",
            args.model,
            "--pretrained",
            "no",
            "--check_photos",
            "no",
            *size,
            "--batch_size",
            str(args.batch_size),
            "--precision",
            args.precision,
            "--layout",
            args.layout,
        ]
    )
    options.data_dir = args.data_dir
    frame = dataset.read_train(args.data_dir)
    frame = frame[~frame["path"].astype(str).str.lower().str.endswith(".png")].reset_index(
        drop=True
    )  # the drawn sample has some
    if args.memory == "kept":
        device.keep_memory(kind)
    choices = startup.input_choices(options, frame)
    options.resize = choices["resize"]
    model = startup.build_model(options, choices)
    choice = device.choose(model, kind, options, training=True)
    fabric = Fabric(accelerator=kind, devices=1, precision=choice.fabric_precision)
    fabric.launch()
    if choice.split > 1:
        raise UserError(f"--batch_size {args.batch_size} does not fit in memory at once; lower it")
    if choice.checkpointing:
        model.backbone.set_grad_checkpointing(True)
    device.fuse_attention(model, kind, training=True)
    if choice.channels_last:
        model = model.to(memory_format=torch.channels_last)
    print(
        f"{device_name(fabric.device)}; batch {args.batch_size}; "
        f"{args.repeats} repetitions of {args.steps} steps in turn, "
        f"{ANSWERING} times as many in inference; median (lowest to highest)"
    )

    forward = device.flops(model, options.resize)
    answering, inference = inference_loops(args, options, model, kind, frame)
    print(f"training in {choice}; inference in {inference}\n")
    loops = {**training_loops(args, options, model, choice, fabric, frame), **answering}
    speeds = {name: [] for name in loops}
    photos = {
        name: args.batch_size * args.steps * (ANSWERING if name.startswith("inference") else 1)
        for name in loops
    }
    for repeat in range(args.repeats + 1):  # the first warms up
        for name, loop in loops.items():
            taken = loop()
            if repeat:
                speeds[name].append(photos[name] / taken)
    loader_speed, parts, workers = loader_alone(args, options, fabric, frame)
    return report(
        args,
        {"training": 3 * forward, "inference": forward},
        (choice, inference),
        fabric,
        speeds,
        loader_speed,
        parts,
        workers,
    )


def timed(device, function) -> float:
    import torch

    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def endless(loader, sampler):
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader
        sampler.epoch += 1


def our_loader(args, options, fabric, frame, batch_size: int, augment: bool, cache: bool):
    import dataset
    from core import processes
    from training import data
    from training.augmentation import augmentation as create_augmentation

    augmentation = create_augmentation(options.augmentation) if augment else None
    photos = dataset.Photos(frame["path"], options.resize, options.crop, augmentation, cache=cache)
    if cache:
        for row in range(len(photos)):
            photos.load(row)
    workers = processes.readers(fabric.device.type, args.workers)
    sampler = dataset.EpochSampler(len(photos))
    return (
        data.build_loader(photos, sampler, batch_size, workers, fabric.device, drop_last=True),
        sampler,
        workers,
    )


def training_loops(args, options, model, choice, fabric, frame) -> dict:
    """Loops of args.steps training steps: name -> a function that returns the seconds of one."""
    import numpy as np
    import torch

    from core import memory
    from loss import create_criterion
    from prediction.predict import to_model
    from training.optimizer import Schedule, build_optimizer
    from training.step import mix, total_loss, train_mode

    device = fabric.device
    optimizer = build_optimizer(model, options, fused=choice.precision != "fp16")
    net, optimizer = fabric.setup(torch.compile(model) if args.compile else model, optimizer)
    schedule = Schedule(optimizer, options, options.epochs, 1000)
    criterion = create_criterion(
        options.criterion, options.smoothing, options.gamma, options.f1_share, options.f1_memory
    )
    labels, ages = (
        torch.tensor(frame[name].to_numpy(copy=True), device=device) for name in ("label", "age")
    )
    top_age, masks = frame["age"].max(), frame["mask"].to_numpy()
    resident = to_model(
        torch.randint(0, 256, (args.batch_size, *options.resize, 3), dtype=torch.uint8),
        device,
        choice.channels_last,
    )
    rows = torch.arange(args.batch_size, device=device) % len(frame)
    fits = memory.cache_fits(len(frame), options.resize, options.cache)
    batches = {
        cache: endless(
            *our_loader(args, options, fabric, frame, args.batch_size, augment=True, cache=cache)[
                :2
            ]
        )
        for cache in (False, fits)
    }

    def bare():
        train_mode(model)
        for _ in range(args.steps):
            output = net(resident, return_years=True)
            loss = total_loss(output, labels[rows], ages[rows], top_age, None, criterion, options)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    def ours(cache):
        train_mode(model)
        total = torch.zeros((), device=device)
        for step in range(args.steps):
            pixels, rows = next(batches[cache])
            images = to_model(pixels, device, choice.channels_last)
            images, blend = mix(images, masks[rows], options, np.random.default_rng(step))
            rows = rows.to(device, non_blocking=True)
            output = net(images, return_years=True)
            loss = total_loss(output, labels[rows], ages[rows], top_age, blend, criterion, options)
            fabric.backward(loss)
            total += loss.detach()
            fabric.clip_gradients(
                net, optimizer, max_norm=options.clip or 1.0, error_if_nonfinite=False
            )
            optimizer.step()
            optimizer.zero_grad()
            schedule.set(step)
        total.item()

    tutorial, plain_batches = plain(args, options, device, frame, training=True)
    plain_optimizer = torch.optim.AdamW(tutorial.parameters(), lr=1e-3)

    def plainly():
        tutorial.train()
        for _ in range(args.steps):
            images, targets = next(plain_batches)
            loss = torch.nn.functional.cross_entropy(
                tutorial(images.to(device)), targets.to(device)
            )
            plain_optimizer.zero_grad()
            loss.backward()
            plain_optimizer.step()
            loss.item()

    loops = {
        "training, bare": bare,
        "training, ours": lambda: ours(fits),
        "training, first": lambda: ours(False),
        "training, plain": plainly,
    }
    return {name: lambda loop=loop: timed(device, loop) for name, loop in loops.items()}


def inference_loops(args, options, trained, kind, frame):
    """As training_loops, for inference with a copy of the model; and the Choice made for it."""
    import copy

    import torch
    from lightning_fabric import Fabric

    from core import processes
    from core.device import choose, fuse_attention
    from prediction.fold_batch_norms import fold_batch_norms
    from prediction.predict import predict, to_model

    model = copy.deepcopy(trained).cpu().eval()
    unfolded = copy.deepcopy(model)
    fold_batch_norms(model)
    fuse_attention(model, kind, training=False)
    choice = choose(model, kind, options, training=False)
    fabric = Fabric(accelerator=kind, devices=1, precision=choice.fabric_precision)
    fabric.launch()
    layout = {"memory_format": torch.channels_last} if choice.channels_last else {}
    unfolded = unfolded.to(**layout).to(fabric.device)
    model = model.to(**layout).to(fabric.device)
    device, steps = fabric.device, ANSWERING * args.steps
    if args.compile:
        model.compile()
    resident = to_model(
        torch.randint(0, 256, (args.batch_size, *options.resize, 3), dtype=torch.uint8),
        device,
        choice.channels_last,
    )
    ways = processes.at_a_time(kind, processes.readers(kind, args.workers))
    batches = endless(
        *our_loader(
            args, options, fabric, frame, args.batch_size // ways, augment=False, cache=False
        )[:2]
    )
    tutorial, plain_batches = plain(args, options, device, frame, training=False)

    @torch.inference_mode()
    def bare(net):
        for _ in range(steps):
            with fabric.autocast():
                net(resident)

    def ours():
        predict(
            model,
            (next(batches) for _ in range(ways * steps)),
            len(frame),
            fabric,
            choice.channels_last,
            ways=ways,
        )

    @torch.no_grad()
    def plainly():
        tutorial.eval()
        for _ in range(steps):
            tutorial(next(plain_batches)[0].to(device)).softmax(1).cpu().numpy()

    loops = {
        "inference, unfolded": lambda: bare(unfolded),
        "inference, bare": lambda: bare(model),
        "inference, ours": ours,
        "inference, plain": plainly,
    }
    return {name: lambda loop=loop: timed(device, loop) for name, loop in loops.items()}, choice


def plain(args, options, device, frame, training: bool):
    """A model and an endless loader as tutorials write them."""
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms as T

    from model import ALIASES

    steps = [
        T.Resize(options.resize),
        *([T.RandomHorizontalFlip(), T.ColorJitter(0.2, 0.2, 0.2)] if training else []),
        T.ToTensor(),
        T.Normalize([0.5] * 3, [0.5] * 3),
    ]
    transform, labels = T.Compose(steps), frame["label"].tolist()

    class Folder(torch.utils.data.Dataset):
        def __len__(self):
            return len(frame)

        def __getitem__(self, row):
            return transform(Image.open(frame["path"][row]).convert("RGB")), labels[row]

    name = ALIASES.get(options.model, options.model)
    loader = torch.utils.data.DataLoader(
        Folder(), batch_size=args.batch_size, shuffle=training, drop_last=True
    )

    def batches():
        while True:
            yield from loader

    return timm.create_model(name, num_classes=18).to(device), batches()


# ------------------------------------------------------------------------------- the loader alone


def loader_alone(args, options, fabric, frame):
    """Photos/s of train.py's loader, milliseconds of each part per photo, and its workers."""
    import numpy as np
    from PIL import Image
    from torch.utils.data import default_collate

    from core import photo
    from training.augmentation import augmentation as create_augmentation

    paths = [frame["path"][row % len(frame)] for row in range(64)]
    augmentation = create_augmentation(options.augmentation)
    loaded = [photo.load_photo(path, options.resize, options.crop) for path in paths]
    batch = default_collate([(pixels, 0) for pixels in loaded])[0]

    def each(function, items) -> float:
        times = []
        for item in items:
            start = time.perf_counter()
            function(item)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    parts = {
        "read the file": each(lambda path: Path(path).read_bytes(), paths),
        "read, decode, crop, resize": each(
            lambda path: photo.load_photo(path, options.resize, options.crop), paths
        ),
        "(decoding whole, by Pillow)": each(
            lambda path: np.asarray(Image.open(path).convert("RGB")), paths
        ),
        "augment": each(lambda pixels: augmentation(image=pixels), loaded),
        "collate": each(default_collate, [[(pixels, 0) for pixels in loaded]] * 5) / len(paths),
        "copy to the device": each(
            lambda pixels: timed(fabric.device, lambda: pixels.to(fabric.device)), [batch] * 5
        )
        / len(paths),
    }
    loader, sampler, workers = our_loader(
        args, options, fabric, frame, args.batch_size, augment=True, cache=False
    )
    batches, speeds = endless(loader, sampler), []
    for _ in range(args.repeats):
        start = time.perf_counter()
        for _ in range(args.steps):
            next(batches)
        speeds.append(args.steps * args.batch_size / (time.perf_counter() - start))
    return speeds, parts, workers


# -------------------------------------------------------------------- what limits, what comes out


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


def report(args, operations, choices, fabric, speeds, loader_speeds, parts, workers) -> dict:
    """Print the tables; returns the figures. `operations` per photo; `choices` by task."""
    median = {name: statistics.median(values) for name, values in speeds.items()}
    from core.device import ceiling
    from core.memory import peak_memory

    limits = {
        task: ceiling(fabric.device, choice.precision)
        for task, choice in zip(operations, choices, strict=True)
    }
    print(
        f"{'loop':19} {'images/s':>9}  {'spread':>17}  {'of bare':>7}  {'x plain':>7}  {'MFU':>5}"
    )
    figures = {
        "model": args.model,
        "device": device_name(fabric.device),
        "choices": list(map(str, choices)),
        "batch_size": args.batch_size,
        "gflop_per_photo": operations["inference"] / 1e9,
        "ceiling_tflops": {task: limit / 1e12 for task, limit in limits.items()},
        "images_per_s": speeds,
    }
    for name, value in median.items():
        task = name.partition(",")[0]
        bare, plain = (value / median[f"{task}, {kind}"] for kind in ("bare", "plain"))
        share = operations[task] * value / limits[task]
        print(
            f"{name:19} {value:9.1f}  {min(speeds[name]):7.1f} to {max(speeds[name]):6.1f}  "
            f"{bare:7.2f}  {plain:7.2f}  {share:5.1%}"
        )
    loader = statistics.median(loader_speeds) / max(1, workers)
    print(f"\nloader alone: {loader:.0f} images/s for each process ({workers} workers)")
    for name, milliseconds in parts.items():
        print(f"  {name:28} {milliseconds:6.2f} ms a photo")
    memory = peak_memory(fabric.device)
    peaks = " and ".join(
        f"{limits[task] / 1e12:.2f} TFLOP/s in {choice.precision}"
        for task, choice in zip(limits, choices, strict=True)
    )
    print(
        f"\n{operations['inference'] / 1e9:.2f} GFLOP a photo forward, three times that in "
        "training; "
        f"matrix products at {peaks}; peak memory {memory:.1f} GB, plain loop included\n"
    )
    short = {"train": "training", "infer": "inference"}
    ratios = {
        f"{key}_vs_{other}": ratio(speeds[f"{task}, ours"], speeds[f"{task}, {other}"])
        for key, task in short.items()
        for other in ("bare", "plain")
    }
    ratios["loader_vs_train"] = loader / median["training, ours"]
    for name, value in ratios.items():
        print(f"{name:16} {value:.2f}")
    return figures | ratios | {"peak_memory_gb": memory, "loader_ms": parts}


def ratio(ours, other) -> float:
    """Median of the ratios within each repetition: a slow spell of the machine affects both."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def vote(rows: int, work: Path) -> dict:
    """Seconds and peak memory of `ensemble.py vote` on eight CSVs of `rows` rows."""
    import numpy as np

    generator = np.random.default_rng(0)
    ids = [f"{number:040x}.jpg" for number in range(rows)]
    files = [work / f"member{number}.csv" for number in range(8)]
    for number, file in enumerate(files):
        answers = generator.integers(0, 18, rows)
        file.write_text(
            "ImageID,ans\n"
            + "".join(f"{name},{answer}\n" for name, answer in zip(ids, answers, strict=True))
        )
        file.with_suffix(".json").write_text(
            json.dumps({"kind": "model", "macro_f1": 0.5 + number / 100})
        )
    # From a small process: a child's peak begins with the memory of the process that started it.
    watch = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([time.perf_counter() - start, peak]))"
    )
    command = [
        sys.executable,
        "-c",
        watch,
        ROOT / "ensemble.py",
        "vote",
        *files,
        "--output",
        work / "vote.csv",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"ensemble.py vote failed: {done.stderr.strip()[-200:]}")
    seconds, peak = json.loads(done.stdout)
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6),
    }


if __name__ == "__main__":
    run(main, parse_args())
