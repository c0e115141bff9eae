"""Which model files a command or a program means: runs by name, folders, files, the latest run."""

from pathlib import Path

from core.errors import UserError
from core.files import read_json
from core.folders import folder, run_parts, safe_name
from core.progress import say


def model_files(args) -> tuple[str, list[Path], float | None]:
    """The submission's name, the model files to average, and their common validation score.

    By the flags --checkpoint, --name and --model_dir. The score is None where none is known for all
    of the files together.
    """
    if args.checkpoint:
        return Path(args.checkpoint[0]).stem, files_of(args.checkpoint), None
    model_dir = folder(args.model_dir, "SM_CHANNEL_MODEL", "SM_MODEL_DIR", default="model")
    names = args.name
    if not names:
        if not (model_dir / "latest.json").is_file():
            raise UserError(
                f"{model_dir} holds no finished run; train one with 'sh train.sh', "
                "or give --name or --checkpoint"
            )
        names = [str(read_json(model_dir / "latest.json").get("run"))]
        say(f"run: {names[0]}, the latest in {model_dir}")
    files = []
    for name in names:
        found = run_files(model_dir / safe_name(name))
        if not found:
            there = sorted(path.parent.name for path in model_dir.glob("*/config.json"))
            hint = f"runs there: {', '.join(there)}" if there else "train one first"
            raise UserError(f"--name {name}: no model in {model_dir / name}; {hint}")
        if lacking := unfinished(model_dir / name):
            say(f"warning: run {name} is not finished: {lacking}; --resume continues its training")
        files += found
    score = None
    if len(names) == 1 and len(files) > 1:  # the score of all folds, or members, together
        score = read_json(model_dir / names[0] / "config.json").get("scores", {}).get("macro_f1")
    return "+".join(name.replace("/", "-") for name in names), files, score


def files_of(source) -> list[Path]:
    """The model files of `source`: a run folder, with folds or members or not, a file, or a list.

    Raises UserError for a folder without a model or a path that does not exist.
    """
    if not isinstance(source, str | Path):
        return [file for one in source for file in files_of(one)]
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: does not exist; give a run folder or a model file")
    found = run_files(path)
    if not found:
        raise UserError(f"{path}: holds no model (best.safetensors); train one first")
    return found


def run_files(run: Path) -> list[Path]:
    """best.safetensors of a run or, where there is none, of each of its folds or members."""
    files = [folder / "best.safetensors" for folder in (run, *run_parts(run))]
    found = [file for file in files if file.is_file()]
    return found[:1] if files[0].is_file() else found


def unfinished(run: Path) -> str | None:
    """What is missing of a run's training, in words; None if nothing, or not on record."""
    single = (run / "best.safetensors").is_file()
    configs = [run / "config.json"] if single else [p / "config.json" for p in run_parts(run)]
    described = [read_json(file) for file in configs if file.is_file()]
    done = sum(content.get("finished", True) for content in described)
    if single:
        return None if done == len(described) else "its best weights so far are used"
    asked = [content.get("settings", {}) for content in described]
    planned = max((each.get("folds") or each.get("members") or 0 for each in asked), default=0)
    return f"it has trained {done} of its {planned} models" if done < planned else None
