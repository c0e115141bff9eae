"""Which model files a command means: runs by name, files, or the latest run."""

from pathlib import Path

from core.errors import UserError
from core.files import read_json
from core.folders import folder, safe_name
from core.progress import say


def model_files(args) -> tuple[str, list[Path], dict]:
    """The name of the submission, the model files to average, and the validation score if there is
    one for all of them together.
    """
    if args.checkpoint:
        return Path(args.checkpoint[0]).stem, [Path(path) for path in args.checkpoint], {}
    model_dir = folder(args.model_dir, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model")
    names = args.name
    if not names:
        if not (model_dir / "latest.json").is_file():
            raise UserError(
                f"{model_dir} holds no finished run; train one with 'sh train.sh', or give --name or --checkpoint"
            )
        names = [str(read_json(model_dir / "latest.json").get("run"))]
        say(f"run: {names[0]}, the latest in {model_dir}")
    files, scores = [], {}
    for name in names:
        path = model_dir / safe_name(name)
        found = (
            [path / "best.safetensors"]
            if (path / "best.safetensors").is_file()
            else sorted(path.glob("fold-*/best.safetensors"))
        )
        if not found:
            there = sorted(p.parent.name for p in model_dir.glob("*/config.json"))
            raise UserError(
                f"--name {name}: no model in {path}; "
                + (f"runs there: {', '.join(there)}" if there else "train one first")
            )
        files += found
        if (
            len(names) == 1 and len(found) > 1
        ):  # all folds: the out-of-fold score speaks for their average
            scores = read_json(path / "config.json").get("scores", {})
    return "+".join(name.replace("/", "-") for name in names), files, scores
