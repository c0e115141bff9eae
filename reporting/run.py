"""The page on one run."""

from pathlib import Path

from core.errors import UserError
from core.files import read_json
from core.folders import folder, safe_name


def run_report(args) -> int:
    path = (
        Path(args.name)
        if Path(args.name).is_dir()
        else folder(args.model_dir, "SM_MODEL_DIR", default="model") / safe_name(args.name)
    )
    page = run_page(path, args.output, args.photos)
    print(f"wrote {page}")
    return 0


def run_page(path: Path, output: Path | None = None, photos: int = 24) -> Path:
    """The page on the run in folder `path`; its folds, if it has any, are taken together. UserError if nothing was held out."""
    import numpy as np

    from core import metrics
    from prediction import tables
    from reporting import figures, findings
    from reporting.page import Section, bullets, gallery, note, table, tiles, write_page

    if not (path / "val_predictions.csv").is_file():
        what = (
            "validated on nobody (--val_ratio 0), or has not finished an epoch"
            if (path / "config.json").is_file()
            else "is not a run"
        )
        raise UserError(f"{path}: {what}; there is nothing to report")
    predictions, log_probabilities = tables.read_predictions(path)
    labels, ans, probabilities = (
        predictions["label"].to_numpy(),
        predictions["ans"].to_numpy(),
        np.exp(log_probabilities),
    )
    confidence = probabilities[np.arange(len(ans)), ans]
    scores, counts, class_f1 = (
        metrics.score(labels, ans),
        metrics.confusion(labels, ans),
        metrics.per_class_f1(labels, ans),
    )
    low, high = metrics.bootstrap(labels, ans, predictions["person"])
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if config:
        chosen = config["choices"]
        config = config["settings"] | {
            "precision": chosen["precision"],
            "layout": "last" if chosen["channels_last"] else "first",
        }
    epochs = epoch_tables(path)
    summary = tiles(
        [
            ("macro-F1", f"{scores['macro_f1']:.4f}", f"95 %: {low:.4f} to {high:.4f}"),
            *(
                (name, f"{scores[name]:.1%}", "right")
                for name in ("accuracy", "mask", "gender", "age")
            ),
            (
                "held out",
                f"{len(labels):,}",
                f"photos of {predictions['person'].nunique():,} people",
            ),
        ]
    )
    summary += bullets(
        [
            f"Who happens to be held out moves macro-F1 between {low:.3f} and {high:.3f} (95 %, people drawn again): "
            "compare runs on the same people.",
            *findings.learning(epochs),
            *findings.where_wrong(labels, ans, class_f1),
            findings.trust(confidence, ans == labels),
        ]
    )
    mistakes = predictions.assign(wrong=labels != ans, confidence=confidence)
    of_person = mistakes.groupby("person")["wrong"].agg(["sum", "size"])
    mistakes = (
        mistakes[mistakes["wrong"]]
        .sort_values("confidence", ascending=False, kind="stable")
        .drop_duplicates("person")
    )
    wrong = mistakes.index.to_numpy()[:photos]

    def captions(rows):
        return [
            [
                f"is {figures.SHORT[labels[row]]}",
                f"{confidence[row]:.0%} {figures.SHORT[ans[row]]}",
                "{} of {} photos wrong".format(*of_person.loc[predictions["person"][row]]),
            ]
            for row in rows
        ]

    def sections():
        if epochs:
            yield Section(
                "Is it learning?",
                note(
                    "Left falls, right rises: it learns. If the loss still falls while macro-F1 (red) stands still, it learns the training "
                    "photos by heart; if both still move at the end, more epochs help."
                    + (" Thin: each fold." if len(epochs) > 1 else "")
                ),
                figures.curves(epochs),
            )
        yield Section(
            "Which attribute is wrong?",
            note(
                "Rows are the truth, columns the answers: the darker the diagonal, the better. Numbers are photos."
            ),
            figures.attribute_confusions(labels, ans),
        )
        yield Section(
            "Which classes are weak?",
            note(
                "Every class counts the same in macro-F1, however few photos it has: the short bars are where there is most to gain."
            ),
            figures.class_bars(class_f1, counts.sum(axis=1)),
        )
        yield Section(
            "What is taken for what",
            note(
                "Read along a row: of the photos that are of this class, so many were given each answer. Off the diagonal is wrong; the colour "
                "is the share of the row."
            ),
            figures.confusion_matrix(
                counts, figures.SHORT, f"18 classes: {scores['accuracy']:.1%} right"
            ),
        )
        yield Section(
            "Does it know when it is unsure?",
            note(
                "On the dotted line confidence can be believed: of answers given with 70 %, 70 % are right. Below it the model is too sure."
            ),
            figures.reliability(confidence, ans == labels)[0],
        )
        there = [row for row in wrong if Path(predictions["path"][row]).is_file()]
        if there:
            paths, said = [predictions["path"][row] for row in there], captions(there)
            how = note(
                "Wrong, and sure of it, the surest first, one photo a person: what it is, the answer with its confidence. Where all "
                "of somebody's photos are wrong, the label may be: 'python prepare.py suspects' looks for such."
            )
            names = [f"{Path(file).parent.name}/{Path(file).name}" for file in paths]
            yield Section(
                "Most confident mistakes",
                how + gallery(paths, said, names),
                figures.contact_sheet(paths, ["\n".join(lines) for lines in said]),
                embed=False,
            )
            chart, why = gradcam(
                path, paths[:6], ["\n".join(lines) for lines in said[:6]], ans[there[:6]]
            )
            yield Section("Where the model looked", note(why), chart)
        elif len(wrong):
            yield Section(
                "Most confident mistakes",
                note(
                    f"Not shown, since {predictions['path'][wrong[0]]} is not there, seen from {Path.cwd()}: photos are looked for where "
                    "train.py found them, so run report.py in the folder in which it ran."
                ),
            )
        names = (
            "model",
            "head",
            "resize",
            "epochs",
            "batch_size",
            "lr",
            "criterion",
            "augmentation",
            "precision",
            "layout",
            "seed",
            "data_dir",
        )
        if config:
            yield Section(
                "How it was trained",
                table([(name, config[name]) for name in names if name in config], ("flag", "value"))
                + note("All flags and versions are in config.json."),
            )

    return write_page(output or path / "report", f"Run {path.name}", sections(), summary)


def epoch_tables(path: Path) -> list:
    """metrics.csv of the run, or of each of its folds."""
    import pandas as pd

    files = [path / "metrics.csv", *sorted(path.glob("fold-*/metrics.csv"))]
    return [pd.read_csv(file) for file in files if file.is_file()]


def gradcam(path: Path, paths, captions, answers):
    """Grad-CAM of the answers to some photos (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391), or None, and words about it."""
    import numpy as np
    import torch

    from core.photo import load_photo
    from prediction.model_file import load_model
    from reporting import figures

    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return None, "Left out: 'pip install grad-cam' adds this picture."
    files = [path / "best.safetensors", *sorted(path.glob("fold-*/best.safetensors"))]
    model = load_model(next(file for file in files if file.is_file()))
    size, crop = tuple(model.description["resize"]), model.description["crop"]
    layers = [info["module"] for info in getattr(model.backbone, "feature_info", [])]
    if not layers:
        return (
            None,
            f"Left out: timm names no layers of {model.description['architecture']} to look at.",
        )

    def as_maps(features):
        """(B, N, C) tokens or (B, H, W, C) -> (B, C, H, W)."""
        if features.ndim == 3:
            tokens = features[:, getattr(model.backbone, "num_prefix_tokens", 0) :]
            height = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
            features = tokens.unflatten(1, (height, tokens.shape[1] // height))
        return (
            features.permute(0, 3, 1, 2)
            if features.shape[-1] == model.backbone.num_features
            else features
        )

    photos = (
        torch.from_numpy(np.stack([load_photo(file, size, crop) for file in paths]))
        .permute(0, 3, 1, 2)
        .float()
    )
    with GradCAM(
        model, [model.backbone.get_submodule(layers[-1])], reshape_transform=as_maps
    ) as cam:
        heat = cam(photos, [ClassifierOutputTarget(int(answer)) for answer in answers])
    how = (
        "The first of these mistakes as the model saw them; below, bright, what spoke for its answer (Grad-CAM). It should look at the "
        "face and the mask, not at the background."
    )
    return figures.looked_at(paths, captions, heat, size, crop), how
