"""The loops that benchmarks/throughput.py times: name -> a function that runs one repetition."""

from copy import copy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torchvision import transforms as T

import train
from core.backbone import ALIASES
from core.errors import UserError
from prediction import Predictor
from prediction.model_file import save_model
from prediction.predict import to_model
from training import settings
from training.checkpoint import State
from training.data import Data, TrainingPhotos, read_photos
from training.split import split_people
from training.startup import launch
from training.step import total_loss, train_mode
from training.stop import Stop

INFERENCE = 4  # as many photos as in training: inference takes about a quarter of the time


def set_up(args, work: Path) -> tuple[train.Training, pd.DataFrame]:
    """What train.py sets up, with epochs of args.steps steps; the photos."""
    flags = f"--model {args.model} --pretrained no --epochs 1000 --val_ratio 0 --check_photos no"
    flags += f" --batch_size {args.batch_size} --precision {args.precision} --layout {args.layout}"
    flags += f" --accelerator {args.device} --compile {'yes' if args.compile else 'no'}"
    flags += f" --resize {args.resize[0]} {args.resize[1]}" if args.resize else ""
    flags += f" --workers {args.workers}" if args.workers is not None else ""
    options = settings.parse([*flags.split(), "--data_dir", args.data_dir])
    fabric = launch(options)
    frame, _, source, _ = read_photos(options, fabric)
    times = -(-args.steps * args.batch_size // len(frame))  # an epoch must not end before
    frame = pd.concat([frame] * times, ignore_index=True)
    data = Data(frame, split_people(frame, options.seed, val_ratio=0), source)
    path = work / "run"
    path.mkdir()
    t = train.Training(options, data, 0, path, fabric, Stop(1), {})
    if t.plan.split > 1:
        raise UserError(f"--batch_size {args.batch_size} does not fit in memory at once; lower it")
    t.plan = replace(t.plan, updates=args.steps, accumulate=1)
    return t, frame


def resident(t: train.Training, count: int, channels_last: bool):
    """A batch that lies on the device already."""
    pixels = torch.randint(0, 256, (count, *t.plan.resize, 3), dtype=torch.uint8)
    return to_model(pixels, t.fabric.device, channels_last)


def training_loops(args, t: train.Training, frame, work: Path) -> dict:
    images = resident(t, args.batch_size, t.plan.channels_last)
    targets = t.photos.targets[: args.batch_size]
    dataset = t.photos.loader.dataset
    if dataset.cache is not None:  # as from the second epoch on
        for row in range(len(dataset)):
            dataset.load(row)
    workers = t.photos.loader.num_workers
    from_files = copy(t)
    from_files.photos = TrainingPhotos(frame, t.args, t.plan, t.fabric, workers, cache=False)
    states = {True: State(), False: State()}

    def bare():
        train_mode(t.model)
        for _ in range(args.steps):
            output = t.net(images, return_years=True)
            loss = total_loss(output, targets, None, t.criterion, t.args)
            t.fabric.backward(loss)
            t.optimizer.step()
            t.optimizer.zero_grad()

    def ours(cached: bool):
        state = states[cached]
        train.train_epoch(t if cached else from_files, state)
        state.validated = True

    return {
        "training, bare": bare,
        "training, ours": lambda: ours(True),
        "training, first": lambda: ours(False),
        "training, plain": plain_training(args, t, frame),
        "training, timm": timm_training(args, t, frame, work),
    }


def inference_loops(args, t: train.Training, frame, work: Path) -> tuple[dict, str]:
    """The loops, and the choice that Predictor made."""
    steps = INFERENCE * args.steps
    save_model(t.kept, work / "model.safetensors")
    predictor = Predictor(
        work / "model.safetensors",
        **{"device": args.device, "precision": args.precision, "layout": args.layout, "tta": []},
        **{"compile": "yes" if args.compile else "no", "workers": args.workers},
        batch_size=args.batch_size,
    )
    paths = (frame["path"].tolist() * INFERENCE * 2)[: steps * args.batch_size]
    predictor.probabilities(paths)
    loaded = predictor.model(predictor.files[0], len(paths))
    images = resident(t, args.batch_size, loaded.choice.channels_last)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(loaded.choice.precision)

    @torch.inference_mode()
    def bare():
        for _ in range(steps):
            with torch.autocast(t.fabric.device.type, dtype, enabled=dtype is not None):
                loaded.model.log_probabilities(images)

    loops = {
        "inference, bare": bare,
        "inference, ours": lambda: predictor.probabilities(paths),
        "inference, plain": plain_inference(args, t, frame, steps),
    }
    return loops, str(loaded.choice)


# ---------------------------------------------------------------------------- as others do it
def name_of(args) -> str:
    return ALIASES.get(args.model, args.model)


def plain_loader(args, t: train.Training, frame, training: bool):
    steps = [
        T.Resize(t.plan.resize),
        *([T.RandomHorizontalFlip(), T.ColorJitter(0.2, 0.2, 0.2)] if training else []),
        T.ToTensor(),
        T.Normalize([0.5] * 3, [0.5] * 3),
    ]
    transform, labels, paths = T.Compose(steps), frame["label"].tolist(), frame["path"].tolist()

    class Folder(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, row):
            return transform(Image.open(paths[row]).convert("RGB")), labels[row]

    loader = torch.utils.data.DataLoader(
        Folder(), batch_size=args.batch_size, shuffle=training, drop_last=True
    )
    return endless(loader)


def endless(loader):
    while True:
        yield from loader


def plain_training(args, t: train.Training, frame):
    """The loop as tutorials write it: fp32, PIL and torchvision, loss.item() in every step."""
    device = t.fabric.device
    model = timm.create_model(name_of(args), num_classes=18).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = plain_loader(args, t, frame, training=True)

    def loop():
        model.train()
        for _ in range(args.steps):
            images, targets = next(batches)
            loss = torch.nn.functional.cross_entropy(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return loop


def plain_inference(args, t: train.Training, frame, steps: int):
    device = t.fabric.device
    model = timm.create_model(name_of(args), num_classes=18).to(device).eval()
    batches = plain_loader(args, t, frame, training=False)

    @torch.no_grad()
    def loop():
        for _ in range(steps):
            model(next(batches)[0].to(device)).softmax(1).cpu().numpy()

    return loop


def timm_training(args, t: train.Training, frame, work: Path):
    """timm's own parts in the order of its train.py, with that script's defaults.

    An ImageFolder of the 18 classes, timm's loader and augmentation, its optimizer and schedule;
    model, size, batch, precision and memory layout as ours. The script itself is neither in timm's
    wheel nor in its source archive.
    """
    folder, device, precision = work / "classes", t.fabric.device, t.plan.precision
    for row, (path, label) in enumerate(zip(frame["path"], frame["label"], strict=True)):
        link = folder / f"{label:02d}" / f"{row}{Path(path).suffix.lower()}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(path).resolve())
    loader = create_loader(
        create_dataset("", root=str(folder), is_training=True),
        input_size=(3, *t.plan.resize),
        batch_size=args.batch_size,
        is_training=True,
        num_workers=t.photos.loader.num_workers,
        device=device,
        persistent_workers=t.photos.loader.num_workers > 0,
    )
    layout = torch.channels_last if t.plan.channels_last else torch.contiguous_format
    model = timm.create_model(name_of(args), num_classes=18).to(device, memory_format=layout)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=10_000, t_in_epochs=False)
    criterion = LabelSmoothingCrossEntropy(0.1)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    batches, updates = endless(loader), 0

    def loop():
        nonlocal updates
        model.train()
        for _ in range(args.steps):
            images, targets = next(batches)
            images = images.to(memory_format=layout)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = criterion(model(images), targets)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            updates += 1
            schedule.step_update(updates)
        loss.item()

    return loop
