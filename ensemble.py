"""Vote over the submissions of several models, or show what each model adds to the vote."""

import argparse
import math
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, add_labels, run
from core.errors import UserError
from core.files import read_csv, read_json

METHODS = ("hard", "attribute", "weighted", "soft")
EXAMPLES = """\
methods:
  hard       the class that most models predict
  attribute  mask, gender and age voted separately, then put together
  weighted   as hard, each model's vote weighing its score
  soft       the highest mean probability, from the npz beside each CSV
In a tie, the class that the best of the tied models predicts wins.

examples:
  python ensemble.py vote output/*.csv --top_k 8
  python ensemble.py vote output/*.csv --scores board.csv --method attribute
  python ensemble.py vote swin.csv beit.csv --order given --output final.csv
  python ensemble.py members output/*.csv --labels sample/eval_answers.csv
"""


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def add_command(name, summary, description):
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            epilog=EXAMPLES,
            formatter_class=HelpFormatter,
        )
        group = command.add_argument_group("models")
        group.add_argument(
            "csv",
            metavar="CSV",
            nargs="+",
            type=Path,
            help="submissions (ImageID,ans); earlier votes are ignored",
        )
        group.add_argument(
            "--top_k", metavar="K", type=positive, help="use only the best K (default: all)"
        )
        group.add_argument(
            "--order",
            choices=("score", "given"),
            default="score",
            help="rank models by score, or as given",
        )
        group.add_argument(
            "--scores",
            metavar="FILE",
            type=Path,
            help="leaderboard scores: a CSV with the columns name,score, or a JSON of name: score, "
            "where name is the CSV file's (default: validation macro-F1, from the JSON beside each "
            "CSV)",
        )
        command.add_argument_group("vote").add_argument(
            "--method", choices=METHODS, default="hard", help="voting method, see below"
        )
        return command

    vote = add_command(
        "vote",
        "vote on one class per photo",
        "Write the vote as a submission, and show how far each model agrees with it.",
    )
    vote.add_argument_group("result").add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="the CSV to write (default: vote-METHOD-K.csv beside the first CSV)",
    )
    members = add_command(
        "members",
        "show what each model adds",
        "Score each model, the vote of all, and the vote without each of them.",
    )
    text = "CSV of the ground truth (ImageID,ans)"
    add_labels(members.add_argument_group("ground truth"), text, required=True)
    return parser.parse_args(argv)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


ARGS = parse_args() if __name__ == "__main__" else None

import numpy as np
import pandas as pd

from core.metrics import macro_f1
from prediction import submission
from prediction.voting import cast_votes


# ---------------------------------------------------------------------------- which models vote
def choose(args) -> pd.DataFrame:
    """The models that vote, best first: columns name, path, score (nan: unknown).

    Prints which are left out, and why. UserError for files that do not exist or appear twice, and
    if none is left.
    """
    paths = args.csv
    for number, path in enumerate(paths):
        if not path.is_file():
            raise UserError(
                f"{path}: does not exist" if not path.exists() else f"{path}: is not a file"
            )
        if path.resolve() in [earlier.resolve() for earlier in paths[:number]]:
            raise UserError(f"{path}: is given twice")
    stems = [path.stem for path in paths]
    sidecars = [submission.read_sidecar(path) for path in paths]
    members = pd.DataFrame(
        {
            "name": stems
            if len(set(stems)) == len(stems)
            else [str(path.with_suffix("")) for path in paths],
            "path": paths,
            "score": [
                _score(sidecar.get("macro_f1"), path.with_suffix(".json"))
                for path, sidecar in zip(paths, sidecars, strict=True)
            ],
        }
    )
    is_vote = pd.Series([sidecar.get("kind") == "vote" for sidecar in sidecars])
    note("earlier votes, left out", members["name"][is_vote])
    members = members[~is_vote]
    if members.empty:
        raise UserError("nothing to vote on: every CSV given is itself a vote")
    if args.scores:
        members["score"] = _leaderboard(args.scores, members["name"])
    unscored = members["score"].isna()
    if args.order == "score" and unscored.all():
        print("no CSV has a score: taken in the order given")
    elif args.order == "score":
        note("without a score, placed last", members["name"][unscored])
        members = members.sort_values("score", ascending=False, kind="stable", na_position="last")
    note(f"not among the first {args.top_k}", members["name"][args.top_k :] if args.top_k else [])
    if args.top_k and args.top_k > len(members):
        print(f"there are {len(members)} CSVs for --top_k {args.top_k}: all of them vote")
    members = members[: args.top_k].reset_index(drop=True)
    if args.method == "weighted" and members["score"].isna().any():
        unscored = submission.few(list(members["name"][members["score"].isna()]))
        raise UserError(
            f"--method weighted: no score for {unscored}; give --scores FILE or another method"
        )
    return members


def note(what: str, names) -> None:
    if len(names):
        print(f"{what}: {', '.join(names)}")


def _score(value, where) -> float:
    """`value` as a number, nan for None; UserError if it is no score."""
    if value is None:
        return math.nan
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UserError(
            f"{where}: {str(value)[:40]!r} is not a score; it is a number of at least 0"
        )
    return number


def _leaderboard(path: Path, names: pd.Series) -> pd.Series:
    """The score of each of `names` in the csv or json `path`, nan where it has none.

    Prints the names that no CSV has.
    """
    if path.suffix.lower() == ".json":
        rows = list(read_json(path).items())
    else:
        rows = list(
            read_csv(path, ["name", "score"])[["name", "score"]].itertuples(index=False, name=None)
        )
    scores = {}
    for name, value in rows:
        name = name.removesuffix(".csv")
        if name in scores:
            raise UserError(f"{path}: {name!r} appears twice")
        scores[name] = _score(value, f"{path}, {name!r}")
    note(f"in {path} but not among the CSVs", sorted(set(scores) - set(names)))
    return names.map(scores).astype(float)


# ---------------------------------------------------------------------------- reading and writing
def read_members(members: pd.DataFrame) -> tuple[pd.Index, np.ndarray]:
    """ImageIDs (N,) of the best model's CSV, and all predictions (members, N) int8 in that order.

    UserError if the photos differ.
    """
    best = submission.read_submission(members["path"][0])
    photos, ans = pd.Index(best["ImageID"]), [best["ans"].to_numpy()]
    for path in members["path"][1:]:
        other = submission.read_submission(path, unique=False)  # align sees to that
        ans.append(other["ans"].to_numpy()[submission.align(path, other["ImageID"], photos)])
    return photos, np.stack(ans)


def probabilities_of(members: pd.DataFrame, photos: pd.Index):
    """Yield each model's probabilities (N, 18) in the order of `photos`."""
    for path in members["path"]:
        beside = path.with_suffix(".npz")
        ids, probabilities = submission.read_probabilities(beside)
        yield probabilities[submission.align(beside, ids, photos)]


def check_output(path: Path) -> None:
    """UserError unless `path` and what goes beside it are new, or an earlier vote."""
    if path.suffix.lower() != ".csv":
        raise UserError(f"--output {path}: give a name that ends in .csv")
    for existing in (path, path.with_suffix(".json"), path.with_suffix(".npz")):
        if existing.exists() and submission.read_sidecar(path).get("kind") != "vote":
            raise UserError(
                f"--output {path}: {existing} exists and is not a vote; give another name"
            )


# ---------------------------------------------------------------------------- commands
def vote(args) -> None:
    """Write the vote: CSV, json and, for soft, npz. Show how far each model agrees with it."""
    members = choose(args)
    output = args.output or args.csv[0].with_name(f"vote-{args.method}-{len(members)}.csv")
    check_output(output)
    photos, ans = read_members(members)
    mean = None
    if args.method == "soft":
        mean = sum(probabilities_of(members, photos)) / np.float32(len(members))
    voted = cast_votes(args.method, ans, members["score"], [mean])
    members["agreement"] = (ans == voted).mean(axis=1)
    write_vote(output, args.method, members, photos, voted, mean)

    width = max(len("model"), *members["name"].map(len))
    ranked = args.order == "score" and members["score"].notna().any()
    by = (
        "earlier in the list"
        if not ranked
        else "with the higher score" + " in validation" * (not args.scores)
    )
    print(
        f"\n{args.method} vote of {len(members)} on {len(photos):,} photos; ties go to the model "
        f"{by}\n"
    )
    print(f"{'':3} {'model':{width}}   score  agrees with the vote")
    for rank, member in enumerate(members.itertuples(), start=1):
        print(f"{rank:3} {member.name:{width}}  {show(member.score)}  {member.agreement:20.1%}")
    print(f"\nvote written to {output}")


def write_vote(
    output: Path,
    method: str,
    members: pd.DataFrame,
    photos: pd.Index,
    voted: np.ndarray,
    mean: np.ndarray | None,
) -> None:
    """The json comes first: whatever stops the writing, the CSV is known for a vote."""
    listed = [
        {
            "name": member.name,
            "score": None if math.isnan(member.score) else member.score,
            "agreement": round(member.agreement, 6),
        }
        for member in members.itertuples()
    ]
    content = {
        "name": output.stem,
        "kind": "vote",
        "method": method,
        "macro_f1": None,
        "photos": len(photos),
        "members": listed,
    }
    submission.write_sidecar(output, content)
    # An earlier soft vote's probabilities would not belong to this vote.
    output.with_suffix(".npz").unlink(missing_ok=True)
    if mean is not None:
        submission.write_probabilities(output.with_suffix(".npz"), photos, mean)
    submission.write_submission(output, pd.DataFrame({"ImageID": photos, "ans": voted}))


def contributions(args) -> None:
    """Show the macro-F1 of each model, of the vote of all, and of the vote without each."""
    chosen = choose(args)
    if len(chosen) < 2:
        raise UserError("members: give at least two CSVs, so that there is a vote without each")
    photos, ans = read_members(chosen)
    truth = submission.read_submission(args.labels)
    labels = truth["ans"].to_numpy()[submission.align(args.labels, truth["ImageID"], photos)]
    scored = chosen["score"].notna().all()
    soft = args.method == "soft" or all(
        path.with_suffix(".npz").is_file() for path in chosen["path"]
    )
    probabilities = list(probabilities_of(chosen, photos)) if soft else None

    def voted_score(keep, method=args.method) -> float:
        kept = [probabilities[row] for row in keep] if probabilities else None
        return macro_f1(
            labels, cast_votes(method, ans[keep], chosen["score"].to_numpy()[keep], kept)
        )

    everyone = list(range(len(chosen)))
    together = voted_score(everyone)
    width = max(len("vote of all"), *chosen["name"].map(len))
    print(f"\nmacro-F1 on {len(photos):,} photos, {args.method} vote\n")
    print(f"{'':3} {'model':{width}}   alone  vote without it  what it adds")
    for row, name in enumerate(chosen["name"]):
        without = voted_score(everyone[:row] + everyone[row + 1 :])
        alone, adds = macro_f1(labels, ans[row]), together - without
        print(f"{row + 1:3} {name:{width}}  {alone:.4f}  {without:15.4f}  {adds:+12.4f}")
    print(f"{'':3} {'vote of all':{width}}  {together:.4f}")
    possible = [
        method
        for method in METHODS
        if (scored or method != "weighted") and (soft or method != "soft")
    ]
    print(
        "\nall of them, by method: "
        + ", ".join(f"{method} {voted_score(everyone, method):.4f}" for method in possible)
    )


def show(score: float) -> str:
    return f"{score:6.4f}" if score == score else "     -"  # nan: no score is known


if __name__ == "__main__":
    run({"vote": vote, "members": contributions}[ARGS.command], ARGS)
