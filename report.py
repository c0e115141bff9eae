"""What people look at: a run, submissions side by side, a data folder, the score of a CSV against known answers."""

import argparse
from pathlib import Path

from cli import ArgumentParser, HelpFormatter, UserError, existing_folder, folder, read_json, run, safe_name

EXAMPLES = """\
examples:
  python report.py run swin
  python report.py compare output/*.csv --data_dir /data/eval
  python report.py data /data/train
  python report.py score output/swin.csv sample/eval_answers.csv
  python report.py score output/swin.csv answers.csv --json score.json
"""


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name, summary, description, function):
        command = commands.add_parser(name, help=summary, description=description, epilog=EXAMPLES, formatter_class=HelpFormatter)
        command.set_defaults(main=function)
        return command

    command = add_command("run", "a page on one run: curves, confusion, calibration, mistakes",
                          "One self-contained HTML page, and its pictures, on what a run did on people it did not train on.", run_report)
    command.add_argument("name", metavar="NAME", help="the run, or its folder")
    command.add_argument("--model_dir", metavar="DIR", help="where runs are (default: SM_MODEL_DIR, else ./model)")
    command.add_argument("--output", metavar="DIR", type=Path, help="where the page goes (default: the run's folder report)")
    command.add_argument("--photos", type=int, default=24, metavar="N", help="mistakes shown")

    command = add_command("compare", "two or more submissions side by side",
                          "Where submissions agree, which classes flow from one to another, and the photos they disagree on.", compare)
    command.add_argument("csv", metavar="CSV", nargs="+", type=Path, help="answers, ImageID,ans")
    command.add_argument("--answers", metavar="FILE", type=Path, help="the truth, for the score of each and of their vote")
    command.add_argument("--data_dir", metavar="DIR", help="the folder that was answered, to show photos from (default: SM_CHANNEL_EVAL)")
    command.add_argument("--output", metavar="DIR", type=Path, default=Path("output/compare"), help="where the page goes")
    command.add_argument("--photos", type=int, default=24, metavar="N", help="photos shown")

    command = add_command("data", "a page on a train folder: people, classes, photos",
                          "People by gender and age, classes, sizes and colours of photos, and some photos of each class.", data)
    command.add_argument("data_dir", metavar="DIR", help="train folder")
    command.add_argument("--corrections", metavar="FILE", type=Path, help="applied to the labels first")
    command.add_argument("--output", metavar="DIR", type=Path, default=Path("output/data"), help="where the page goes")
    command.add_argument("--photos", type=int, default=6, metavar="N", help="photos shown of each class")

    command = commands.add_parser("score", help="macro-F1 and accuracies of a CSV whose answers are known", formatter_class=HelpFormatter,
                                  description="Macro-F1, accuracy and the accuracy of each attribute, rows matched by ImageID.",
                                  epilog=EXAMPLES)
    command.add_argument("output", metavar="OUTPUT.csv", type=Path, help="the answers to score, ImageID,ans")
    command.add_argument("answers", metavar="ANSWERS.csv", type=Path, help="the truth, ImageID,ans")
    command.add_argument("--json", metavar="FILE", type=Path, help="also write the scores here, and the F1 of every class")
    command.set_defaults(main=score)
    return parser.parse_args(argv)


# ---------------------------------------------------------------------------- run


def run_report(args) -> int:
    path = Path(args.name) if Path(args.name).is_dir() else folder(args.model_dir, "SM_MODEL_DIR", default="model") / safe_name(args.name)
    page = run_page(path, args.output, args.photos)
    print(f"wrote {page}")
    return 0


def run_page(path: Path, output: Path | None = None, photos: int = 24) -> Path:
    """The page on the run in folder `path`; its folds, if it has any, are taken together. UserError if nothing was held out."""
    import numpy as np

    import figures
    import findings
    import metrics
    import run_folder
    from page import Section, bullets, gallery, note, table, tiles, write_page

    if not (path / "val_predictions.csv").is_file():
        what = "validated on nobody (--val_ratio 0), or has not finished an epoch" if (path / "config.json").is_file() else "is not a run"
        raise UserError(f"{path}: {what}; there is nothing to report")
    predictions, log_probabilities = run_folder.read_predictions(path)
    labels, ans, probabilities = predictions["label"].to_numpy(), predictions["ans"].to_numpy(), np.exp(log_probabilities)
    confidence = probabilities[np.arange(len(ans)), ans]
    scores, counts, class_f1 = metrics.score(labels, ans), metrics.confusion(labels, ans), metrics.per_class_f1(labels, ans)
    low, high = metrics.bootstrap(labels, ans, predictions["person"])
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if config:
        chosen = config["choices"]
        config = config["settings"] | {"precision": chosen["precision"], "layout": "last" if chosen["channels_last"] else "first"}
    epochs = epoch_tables(path)
    summary = tiles([("macro-F1", f"{scores['macro_f1']:.4f}", f"95 %: {low:.4f} to {high:.4f}"),
                     *((name, f"{scores[name]:.1%}", "right") for name in ("accuracy", "mask", "gender", "age")),
                     ("held out", f"{len(labels):,}", f"photos of {predictions['person'].nunique():,} people")])  # fmt: skip
    summary += bullets([f"Who happens to be held out moves macro-F1 between {low:.3f} and {high:.3f} (95 %, people drawn again): "
                        "compare runs on the same people.",
                        *findings.learning(epochs), *findings.where_wrong(labels, ans, class_f1),
                        findings.trust(confidence, ans == labels)])  # fmt: skip
    mistakes = predictions.assign(wrong=labels != ans, confidence=confidence)
    of_person = mistakes.groupby("person")["wrong"].agg(["sum", "size"])
    mistakes = mistakes[mistakes["wrong"]].sort_values("confidence", ascending=False, kind="stable").drop_duplicates("person")
    wrong = mistakes.index.to_numpy()[:photos]

    def captions(rows):
        return [[f"is {figures.SHORT[labels[row]]}", f"{confidence[row]:.0%} {figures.SHORT[ans[row]]}",
                 "{} of {} photos wrong".format(*of_person.loc[predictions["person"][row]])] for row in rows]  # fmt: skip

    def sections():
        if epochs:
            yield Section("Is it learning?", note(
                "Left falls, right rises: it learns. If the loss still falls while macro-F1 (red) stands still, it learns the training "
                "photos by heart; if both still move at the end, more epochs help." + (" Thin: each fold." if len(epochs) > 1 else "")),
                figures.curves(epochs))  # fmt: skip
        yield Section("Which attribute is wrong?", note(
            "Rows are the truth, columns the answers: the darker the diagonal, the better. Numbers are photos."),
            figures.attribute_confusions(labels, ans))  # fmt: skip
        yield Section("Which classes are weak?", note(
            "Every class counts the same in macro-F1, however few photos it has: the short bars are where there is most to gain."),
            figures.class_bars(class_f1, counts.sum(axis=1)))  # fmt: skip
        yield Section("What is taken for what", note(
            "Read along a row: of the photos that are of this class, so many were given each answer. Off the diagonal is wrong; the colour "
            "is the share of the row."),
            figures.confusion_matrix(counts, figures.SHORT, f"18 classes: {scores['accuracy']:.1%} right"))  # fmt: skip
        yield Section("Does it know when it is unsure?", note(
            "On the dotted line confidence can be believed: of answers given with 70 %, 70 % are right. Below it the model is too sure."),
            figures.reliability(confidence, ans == labels)[0])  # fmt: skip
        there = [row for row in wrong if Path(predictions["path"][row]).is_file()]
        if there:
            paths, said = [predictions["path"][row] for row in there], captions(there)
            how = note("Wrong, and sure of it, the surest first, one photo a person: what it is, the answer with its confidence. Where all "
                       "of somebody's photos are wrong, the label may be: 'python prepare.py suspects' looks for such.")  # fmt: skip
            names = [f"{Path(file).parent.name}/{Path(file).name}" for file in paths]
            yield Section("Most confident mistakes", how + gallery(paths, said, names),
                          figures.contact_sheet(paths, ["\n".join(lines) for lines in said]), embed=False)  # fmt: skip
            chart, why = gradcam(path, paths[:6], ["\n".join(lines) for lines in said[:6]], ans[there[:6]])
            yield Section("Where the model looked", note(why), chart)
        elif len(wrong):
            yield Section("Most confident mistakes", note(
                f"Not shown, since {predictions['path'][wrong[0]]} is not there, seen from {Path.cwd()}: photos are looked for where "
                "train.py found them, so run report.py in the folder in which it ran."))  # fmt: skip
        names = ("model", "head", "resize", "epochs", "batch_size", "lr", "criterion", "augmentation", "precision", "layout", "seed",
                 "data_dir")
        if config:
            yield Section("How it was trained", table([(name, config[name]) for name in names if name in config], ("flag", "value"))
                          + note("All flags and versions are in config.json."))  # fmt: skip

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

    import figures
    from model import load_model
    from transforms import load_photo

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
        return None, f"Left out: timm names no layers of {model.description['architecture']} to look at."

    def as_maps(features):
        """(B, N, C) tokens or (B, H, W, C) -> (B, C, H, W)."""
        if features.ndim == 3:
            tokens = features[:, getattr(model.backbone, "num_prefix_tokens", 0) :]
            height = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
            features = tokens.unflatten(1, (height, tokens.shape[1] // height))
        return features.permute(0, 3, 1, 2) if features.shape[-1] == model.backbone.num_features else features

    photos = torch.from_numpy(np.stack([load_photo(file, size, crop) for file in paths])).permute(0, 3, 1, 2).float()
    with GradCAM(model, [model.backbone.get_submodule(layers[-1])], reshape_transform=as_maps) as cam:
        heat = cam(photos, [ClassifierOutputTarget(int(answer)) for answer in answers])
    how = ("The first of these mistakes as the model saw them; below, bright, what spoke for its answer (Grad-CAM). It should look at the "
           "face and the mask, not at the background.")  # fmt: skip
    return figures.looked_at(paths, captions, heat, size, crop), how


# ---------------------------------------------------------------------------- compare


def compare(args) -> int:
    import numpy as np
    import pandas as pd

    import figures
    import findings
    import metrics
    from page import Section, bullets, gallery, note, table, write_page
    from submission import align, read_sidecar, read_submission

    if len(args.csv) < 2:
        raise UserError("compare: give two submissions or more")
    first = read_submission(args.csv[0])
    photos, names = pd.Index(first["ImageID"]), unlike(args.csv)
    answers = [first["ans"].to_numpy()]
    for path in args.csv[1:]:
        other = read_submission(path)
        answers.append(other["ans"].to_numpy()[align(path, other["ImageID"], photos)])
    answers = np.stack(answers)  # (submissions, photos)
    validation = [read_sidecar(path).get("macro_f1") for path in args.csv]
    truth, scores = None, []
    if args.answers:
        known = read_submission(args.answers)
        truth = known["ans"].to_numpy()[align(args.answers, known["ImageID"], photos)]
        votes = np.stack([(answers == label).sum(axis=0) for label in range(metrics.CLASSES)])
        vote = next_best(answers, votes == votes.max(axis=0))
        scores = [metrics.score(truth, ans) for ans in [*answers, vote]]
    agreement = {"in all": same(answers), **{name: same(np.stack(codes)) for name, codes in
                 zip(figures.PARTS, zip(*map(figures.parts, answers), strict=True), strict=True)}}  # fmt: skip
    differ = np.flatnonzero((answers != answers[0]).any(axis=0))
    codes = np.stack([figures.parts(ans) for ans in answers])  # (submissions, 3, photos)
    differ = differ[np.argsort([-sum(len(set(of_part)) for of_part in codes[:, :, row].T) for row in differ], kind="stable")]
    said = [f"{names[0]} and {name} agree on {share:.1%} of {len(photos):,} photos: " + ", ".join(
                f"{what} {agreement[what][0, n]:.1%}" for what in figures.PARTS)
            for n, (name, share) in enumerate(zip(names[1:], agreement["in all"][0, 1:], strict=True), start=1)]  # fmt: skip
    for n in range(1, len(names)) if truth is not None else ():
        said += findings.better(names[0], names[n], answers[0], answers[n], truth)
    if scores and len(names) == 2:
        scores.pop()  # a vote of two is what the first says
    elif scores:
        said.append(f"The vote of all {len(names)} scores {scores[-1]['macro_f1']:.4f}.")
    elif None not in validation:
        said.append("In validation: " + ", ".join(f"{name} {score:.4f}" for name, score in zip(names, validation, strict=True))
                    + " macro-F1; comparable where the same people were held out.")  # fmt: skip
    print("\n".join(said))
    for name, score in zip([*names, "their vote"], scores, strict=False):
        print(f"{name}: macro-F1 {score['macro_f1']:.4f}, accuracy {score['accuracy']:.4f}")

    def sections():
        if scores:
            rows = [(name, "" if held is None else float(held), *(score[key] for key in ("macro_f1", "accuracy", "mask", "gender", "age")))
                    for name, held, score in zip([*names, "their vote"], [*validation, None], scores, strict=False)]  # fmt: skip
            header = ("submission", "in validation", "macro-F1", "accuracy", "mask", "gender", "age")
            f1 = np.stack([metrics.per_class_f1(truth, ans) for ans in answers])
            yield Section("Scores", note("Against the answers; 'in validation' is what each run scored on the people it held out.")
                          + table(rows, header))  # fmt: skip
            yield Section("Where one is better", note("F1 of each class: the mark furthest right is the best there, a long line a large "
                                                      "difference."), figures.by_class(f1, names, "F1 by class"))  # fmt: skip
        yield Section("How far they agree", note(
            "Share of photos answered alike. Members of a vote help each other most where they are good and agree little."),
            [figures.agreement_matrix(shares, names, what) for what, shares in agreement.items()])  # fmt: skip
        given = np.stack([np.bincount(ans, minlength=metrics.CLASSES) for ans in [*answers, *([] if truth is None else [truth])]])
        yield Section("What each answers", note("Photos given each class. A class that one hardly ever answers costs it macro-F1."),
                      figures.by_class(given, [*names, *([] if truth is None else ["truth"])], "photos by answer"))  # fmt: skip
        for n in range(1, min(len(names), 4)):
            yield Section(f"From {names[0]} to {names[n]}", note(
                f"Rows are what {names[0]} says, columns what {names[n]} says of the same photos; on the diagonal they agree."),
                figures.attribute_confusions(answers[0], answers[n], (names[n], names[0]), "alike"))  # fmt: skip
        header = (names[0], "other", "says", "photos", *((f"{names[0]} right", "other right", "neither") if truth is not None else ()))
        yield Section("Classes that flow", note(f"The commonest changes of answer, {names[0]} against each other one.")
                      + table(findings.flows(names, answers, truth)[:30], header))  # fmt: skip
        heading = f"Photos they disagree on, {len(differ):,} in all"
        if not len(differ):
            yield Section(heading, note("None."))
            return
        chosen = differ[: args.photos]
        images = photo_paths(args.data_dir, photos[chosen])
        if not images:
            told = answers if truth is None else np.vstack([truth, answers])
            yield Section(heading, note("SM_CHANNEL_EVAL or --data_dir, the eval folder, shows them.") + table(
                [(photos[row], *(figures.SHORT[ans] for ans in told[:, row])) for row in chosen],
                ("photo", *([] if truth is None else ["truth"]), *names)))  # fmt: skip
            return
        captions = [[(f"{name}: {figures.SHORT[ans]}", truth is not None and ans == truth[row])
                     for name, ans in zip(names, answers[:, row], strict=True)]
                    + ([] if truth is None else [f"is {figures.SHORT[truth[row]]}"]) for row in chosen]  # fmt: skip
        lines = [[line if isinstance(line, str) else "✓ " * bool(line[1]) + line[0] for line in caption] for caption in captions]
        yield Section(heading, note("Those with the most different answers first" + (", ✓ the right ones." if truth is not None else "."))
                      + gallery(images, captions, photos[chosen]),
                      figures.contact_sheet(images, ["\n".join(caption) for caption in lines]), embed=False)  # fmt: skip

    title = " and ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
    print(f"wrote {write_page(args.output, title, sections(), bullets(said))}")
    return 0


def unlike(paths: list[Path]) -> list[str]:
    """Short names of the files that tell them apart: the stem, with its folder where two are alike."""
    stems = [path.stem for path in paths]
    return [path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}/{path.stem}" for path in paths]


def same(answers):
    """(n, n): the share of photos on which each two of answers (n, photos) are equal."""
    return (answers[:, None] == answers[None]).mean(axis=2)


def next_best(answers, best):
    """The vote (N,): of the classes with the most votes, the one that the first submission in order answered."""
    import numpy as np

    tied = np.take_along_axis(best, answers, axis=0)  # (submissions, photos): whether its answer is among the best
    return np.take_along_axis(answers, tied.argmax(axis=0)[None], axis=0)[0]


def photo_paths(data_dir, ids) -> list[Path]:
    """Where the photos with these ImageIDs are; none unless the folder holds them all."""
    import os

    given = data_dir or os.environ.get("SM_CHANNEL_EVAL")
    if not given:
        return []
    root = existing_folder(given, "--data_dir")
    root = root / "images" if (root / "images").is_dir() else root
    paths = [root / name for name in ids]
    return paths if all(path.is_file() and path.resolve().is_relative_to(root.resolve()) for path in paths) else []


# ---------------------------------------------------------------------------- data


def data(args) -> int:
    import numpy as np

    import dataset
    import figures
    from page import Section, gallery, note, table, write_page
    from transforms import PhotoError, load_photo, open_photo

    frame = dataset.read_train(existing_folder(args.data_dir, "DIR"), args.corrections)
    people = frame.drop_duplicates("person")
    generator = np.random.default_rng(0)
    sizes, histograms, unreadable = {}, np.zeros((3, 256)), 0
    for path in frame["path"]:
        try:
            with open_photo(path) as photo:
                sizes[photo.size] = sizes.get(photo.size, 0) + 1
        except PhotoError:
            unreadable += 1
    for row in generator.permutation(len(frame))[:500]:
        try:
            pixels = load_photo(frame["path"][row], (128, 96))
        except PhotoError:
            continue
        histograms += [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
    share = histograms / histograms.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = share @ values
    std = np.sqrt(share @ values**2 - mean**2)
    common = sorted(sizes.items(), key=lambda item: -item[1])[:10]

    def sections():
        per_person = frame["person"].value_counts().value_counts()
        rows = [("people", f"{len(people):,}"), ("photos", f"{len(frame):,}"), ("photos that cannot be opened", f"{unreadable:,}"),
                ("photos a person", ", ".join(f"{count} ({n:,} people)" for count, n in per_person.items()))]  # fmt: skip
        yield Section("In all", table(rows, ("", "")))
        yield Section("People by gender and age", figures=figures.ages(people))
        yield Section("The 18 classes", figures=figures.class_counts(frame["label"].to_numpy()))
        yield Section("Sizes", table([(f"{w} x {h}", f"{n:,}") for (w, h), n in common], ("width x height", "photos")))
        yield Section("Colours", note(f"Of {min(500, len(frame))} photos, at random."), figures.channel_histograms(histograms, mean, std))
        for label, of_class in frame.groupby("label"):
            chosen = of_class.iloc[generator.permutation(len(of_class))[: args.photos]]
            said, names = [f"{age} years" for age in chosen["age"]], chosen["person"] + "/" + chosen["photo"]
            yield Section(figures.CLASS_NAMES[label], gallery(chosen["path"], [[words] for words in said], names.tolist()),
                          figures.contact_sheet(chosen["path"].tolist(), said), embed=False)  # fmt: skip

    print(f"wrote {write_page(args.output, f'Data in {args.data_dir}', sections())}")
    return 0


# ---------------------------------------------------------------------------- score


def score(args) -> None:
    """Print the scores of `args.output` against `args.answers`; UserError if a photo is not answered, or more than once."""
    import metrics

    check_json(args)
    labels, ans, extra = match_answers(args.output, args.answers)
    scores = metrics.score(labels, ans)
    confusion, class_f1 = metrics.confusion(labels, ans), metrics.per_class_f1(labels, ans)
    print(f"{args.output} against {args.answers}: {len(labels):,} photos\n")
    print_scores(scores)
    print()
    print_classes(confusion, class_f1)
    if extra:
        print(f"\nnot scored: {extra}")
    if args.json:
        write_scores(args, len(labels), scores, class_f1)
        print(f"\nscores written to {args.json}")


def check_json(args) -> None:
    """UserError if `--json` would write over a CSV, or over the json that inference.py wrote beside one."""
    taken = {path.resolve() for csv in (args.output, args.answers) for path in (csv, csv.with_suffix(".json"))}
    if args.json and args.json.resolve() in taken:
        raise UserError(f"--json {args.json}: belongs to one of the CSVs; give another name")


def match_answers(output: Path, answers: Path):
    """labels (N,), ans (N,) in the order of `answers`, and words on rows of `output` that `answers` does not know (or "").

    Raises UserError naming a few of the photos that `output` misses or repeats: such a file has no score.
    """
    from submission import few, read_submission

    truth, given = read_submission(answers), read_submission(output, unique=False)
    missing = truth["ImageID"][~truth["ImageID"].isin(given["ImageID"])]
    extra = given["ImageID"][~given["ImageID"].isin(truth["ImageID"])].unique()
    repeated = given["ImageID"][given["ImageID"].duplicated()].unique()
    named = {what: f"{len(names):,} {what} ({few(list(names))})" if len(names) else ""
             for what, names in (("missing", missing), ("repeated", repeated), ("unknown to the answers", extra))}
    if len(missing) or len(repeated):
        raise UserError(f"{output}: no score, since photos of {answers} are {' and '.join(filter(None, named.values()))}")
    ans = given.set_index("ImageID")["ans"].reindex(truth["ImageID"])
    return truth["ans"].to_numpy(), ans.to_numpy(), named["unknown to the answers"]


def print_scores(scores: dict) -> None:
    """Macro-F1 first, as the leaderboard ranks by it; the attributes' accuracies below the accuracy they make up."""
    print(f"macro-F1  {scores['macro_f1']:.4f}")
    print(f"accuracy  {scores['accuracy']:.4f}")
    for attribute in ("mask", "gender", "age"):
        print(f"  {attribute:7} {scores[attribute]:.4f}")


def print_classes(confusion, class_f1) -> None:
    """A line for every class: photos that are of it, answers that say so, F1."""
    from dataset import CLASS_NAMES

    print(f"    {'class':22} photos  answers      F1")
    for label, name in enumerate(CLASS_NAMES):
        f1 = f"{class_f1[label]:.4f}" if class_f1[label] >= 0 else "-"  # nan: neither in the truth nor in the answers
        print(f"{label:>3} {name:22} {confusion[label].sum():6,} {confusion[:, label].sum():8,} {f1:>7}")


def write_scores(args, photos: int, scores: dict, class_f1) -> None:
    from cli import write_json
    from dataset import CLASS_NAMES

    classes = {name: None if f1 != f1 else float(f1) for name, f1 in zip(CLASS_NAMES, class_f1, strict=True)}
    content = {"output": str(args.output), "answers": str(args.answers), "photos": photos, **scores, "class_f1": classes}
    write_json(args.json, content)


if __name__ == "__main__":
    ARGS = parse_args()
    run(ARGS.main, ARGS)
