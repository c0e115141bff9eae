"""The page on two or more submissions."""

from pathlib import Path

from core.errors import UserError
from core.folders import existing_folder


def compare(args) -> int:
    import numpy as np
    import pandas as pd

    from core import metrics
    from prediction.submission import align, read_sidecar, read_submission
    from reporting import figures, findings
    from reporting.page import Section, bullets, gallery, note, table, write_page

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
    agreement = {
        "in all": same(answers),
        **{
            name: same(np.stack(codes))
            for name, codes in zip(
                figures.PARTS, zip(*map(figures.parts, answers), strict=True), strict=True
            )
        },
    }
    differ = np.flatnonzero((answers != answers[0]).any(axis=0))
    codes = np.stack([figures.parts(ans) for ans in answers])  # (submissions, 3, photos)
    differ = differ[
        np.argsort(
            [-sum(len(set(of_part)) for of_part in codes[:, :, row].T) for row in differ],
            kind="stable",
        )
    ]
    said = [
        f"{names[0]} and {name} agree on {share:.1%} of {len(photos):,} photos: "
        + ", ".join(f"{what} {agreement[what][0, n]:.1%}" for what in figures.PARTS)
        for n, (name, share) in enumerate(
            zip(names[1:], agreement["in all"][0, 1:], strict=True), start=1
        )
    ]
    for n in range(1, len(names)) if truth is not None else ():
        said += findings.better(names[0], names[n], answers[0], answers[n], truth)
    if scores and len(names) == 2:
        scores.pop()  # a vote of two is what the first says
    elif scores:
        said.append(f"The vote of all {len(names)} scores {scores[-1]['macro_f1']:.4f}.")
    elif None not in validation:
        said.append(
            "In validation: "
            + ", ".join(
                f"{name} {score:.4f}" for name, score in zip(names, validation, strict=True)
            )
            + " macro-F1; comparable where the same people were held out."
        )
    print("\n".join(said))
    for name, score in zip([*names, "their vote"], scores, strict=False):
        print(f"{name}: macro-F1 {score['macro_f1']:.4f}, accuracy {score['accuracy']:.4f}")

    def sections():
        if scores:
            rows = [
                (
                    name,
                    "" if held is None else float(held),
                    *(score[key] for key in ("macro_f1", "accuracy", "mask", "gender", "age")),
                )
                for name, held, score in zip(
                    [*names, "their vote"], [*validation, None], scores, strict=False
                )
            ]
            header = (
                "submission",
                "in validation",
                "macro-F1",
                "accuracy",
                "mask",
                "gender",
                "age",
            )
            f1 = np.stack([metrics.per_class_f1(truth, ans) for ans in answers])
            yield Section(
                "Scores",
                note(
                    "Against the answers; 'in validation' is what each run scored on the people it held out."
                )
                + table(rows, header),
            )
            yield Section(
                "Where one is better",
                note(
                    "F1 of each class: the mark furthest right is the best there, a long line a large "
                    "difference."
                ),
                figures.by_class(f1, names, "F1 by class"),
            )
        yield Section(
            "How far they agree",
            note(
                "Share of photos answered alike. Members of a vote help each other most where they are good and agree little."
            ),
            [figures.agreement_matrix(shares, names, what) for what, shares in agreement.items()],
        )
        given = np.stack(
            [
                np.bincount(ans, minlength=metrics.CLASSES)
                for ans in [*answers, *([] if truth is None else [truth])]
            ]
        )
        yield Section(
            "What each answers",
            note(
                "Photos given each class. A class that one hardly ever answers costs it macro-F1."
            ),
            figures.by_class(
                given, [*names, *([] if truth is None else ["truth"])], "photos by answer"
            ),
        )
        for n in range(1, min(len(names), 4)):
            yield Section(
                f"From {names[0]} to {names[n]}",
                note(
                    f"Rows are what {names[0]} says, columns what {names[n]} says of the same photos; on the diagonal they agree."
                ),
                figures.attribute_confusions(answers[0], answers[n], (names[n], names[0]), "alike"),
            )
        header = (
            names[0],
            "other",
            "says",
            "photos",
            *((f"{names[0]} right", "other right", "neither") if truth is not None else ()),
        )
        yield Section(
            "Classes that flow",
            note(f"The commonest changes of answer, {names[0]} against each other one.")
            + table(findings.flows(names, answers, truth)[:30], header),
        )
        heading = f"Photos they disagree on, {len(differ):,} in all"
        if not len(differ):
            yield Section(heading, note("None."))
            return
        chosen = differ[: args.photos]
        images = photo_paths(args.data_dir, photos[chosen])
        if not images:
            told = answers if truth is None else np.vstack([truth, answers])
            yield Section(
                heading,
                note("SM_CHANNEL_EVAL or --data_dir, the eval folder, shows them.")
                + table(
                    [
                        (photos[row], *(figures.SHORT[ans] for ans in told[:, row]))
                        for row in chosen
                    ],
                    ("photo", *([] if truth is None else ["truth"]), *names),
                ),
            )
            return
        captions = [
            [
                (f"{name}: {figures.SHORT[ans]}", truth is not None and ans == truth[row])
                for name, ans in zip(names, answers[:, row], strict=True)
            ]
            + ([] if truth is None else [f"is {figures.SHORT[truth[row]]}"])
            for row in chosen
        ]
        lines = [
            [line if isinstance(line, str) else "✓ " * bool(line[1]) + line[0] for line in caption]
            for caption in captions
        ]
        yield Section(
            heading,
            note(
                "Those with the most different answers first"
                + (", ✓ the right ones." if truth is not None else ".")
            )
            + gallery(images, captions, photos[chosen]),
            figures.contact_sheet(images, ["\n".join(caption) for caption in lines]),
            embed=False,
        )

    title = " and ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
    print(f"wrote {write_page(args.output, title, sections(), bullets(said))}")
    return 0


def unlike(paths: list[Path]) -> list[str]:
    """Short names of the files that tell them apart: the stem, with its folder where two are alike."""
    stems = [path.stem for path in paths]
    return [
        path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}/{path.stem}"
        for path in paths
    ]


def same(answers):
    """(n, n): the share of photos on which each two of answers (n, photos) are equal."""
    return (answers[:, None] == answers[None]).mean(axis=2)


def next_best(answers, best):
    """The vote (N,): of the classes with the most votes, the one that the first submission in order answered."""
    import numpy as np

    tied = np.take_along_axis(
        best, answers, axis=0
    )  # (submissions, photos): whether its answer is among the best
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
    return (
        paths
        if all(path.is_file() and path.resolve().is_relative_to(root.resolve()) for path in paths)
        else []
    )
