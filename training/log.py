"""What a run logs: the epoch line, TensorBoard or Weights & Biases."""

import secrets
from pathlib import Path

from core.folders import run_parts
from core.labels import ATTRIBUTES


def epoch_line(row: dict, epochs: int, seconds: float) -> str:
    """A row of metrics.csv as a line of text."""
    text = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['loss']:.3f}"
    if "macro_f1" in row:
        text += f"  macro-F1 {row['macro_f1']:.4f}  accuracy {row['accuracy']:.3f}  "
        text += "  ".join(f"{name} {row[name]:.3f}" for name in ATTRIBUTES if name in row)
    if row.get("fp16_overflows"):
        text += f"  {row['fp16_overflows']} fp16 overflows"
    text += f"  lr {row['lr']:.1e}  {row['images_per_s']:.0f} img/s"
    return text + f"  {seconds:.0f} s  {row['memory_gb']:.1f} GB"


def build_logger(name: str, path: Path):
    """TensorBoard's or Weights & Biases' logger; None for csv: metrics.csv is always written."""
    if name == "tensorboard":
        from lightning_fabric.loggers import TensorBoardLogger

        return TensorBoardLogger(path.parent, name=path.name, version="")
    if name == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        run = [path.parent.name] if path in run_parts(path.parent) else []
        name = "-".join([*run, path.name])
        known = path / ".wandb-id"  # W&B's name of the run, for when it is resumed
        if not known.is_file():
            known.write_text(secrets.token_hex(8))
        more = {"id": known.read_text(), "resume": "allow", "group": run[0] if run else None}
        return WandbLogger(name=name, save_dir=path, **more)
    return None


def close(logger) -> None:
    """End the logger's run: W&B would log the next fold of this process into it too."""
    if hasattr(logger, "log_image"):  # wandb
        logger.experiment.finish()
    else:
        logger.finalize("success")


def log_epoch(logger, row: dict, frame, log_probabilities) -> None:
    """A row of metrics.csv and, where something was validated, its pictures."""
    numbers = {key: float(value) for key, value in row.items() if key != "epoch"}
    logger.log_metrics(numbers, step=row["epoch"])
    if "mask" in row:  # all attributes were validated
        log_pictures(logger, frame, log_probabilities, row["epoch"])


def log_pictures(logger, frame, log_probabilities, epoch: int) -> None:
    """The confusion matrix, and twelve held-out photos with labels and predictions."""
    import numpy as np

    from core import figures, metrics  # slow to import

    ans = log_probabilities.argmax(axis=1)
    counts = metrics.confusion(frame["label"].to_numpy(), ans)
    rows = np.linspace(0, len(frame) - 1, min(12, len(frame))).astype(int)
    captions = [
        f"label: {figures.SHORT[frame['label'][row]]}\npredicted: {figures.SHORT[ans[row]]} "
        f"({np.exp(log_probabilities[row, ans[row]]):.0%})"
        for row in rows
    ]
    pictures = {
        "confusion": figures.confusion_matrix(counts, figures.SHORT, f"epoch {epoch}"),
        "photos": figures.contact_sheet(frame["path"][rows].tolist(), captions),
    }
    for name, picture in pictures.items():
        if hasattr(logger, "log_image"):  # wandb
            logger.log_image(name, [picture], step=epoch)
            figures.plt.close(picture)
        else:
            logger.experiment.add_figure(name, picture, epoch)
