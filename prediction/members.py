"""The submissions that vote: which, in what order, and what they predict."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from core.errors import UserError, counted
from core.files import read_csv, read_json
from prediction import submission


def choose(args) -> pd.DataFrame:
    """The models that vote, best first: columns name, path, score (nan: unknown).

    Prints what is left out and why. Raises UserError for files that do not exist or appear twice,
    and if none is left.
    """
    paths = submission.without_tables(args.csv)
    if len(paths) < len(args.csv):
        print(f"tables of probabilities, left out: {len(args.csv) - len(paths)}")
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
    for path, sidecar in zip(paths, sidecars, strict=True):
        if sidecar.get("attribute"):
            raise UserError(
                f"{path}: predicts the {sidecar['attribute']} alone; join it with others by "
                "ensemble.py combine, then vote"
            )
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
        there = counted(len(members), "CSV")
        print(f"{there} for --top_k {args.top_k}: all that is there votes")
    members = members[: args.top_k].reset_index(drop=True)
    unscored_names = members["name"][members["score"].isna()]
    if args.method == "weighted" and len(unscored_names):
        raise UserError(
            f"--method weighted: no score for {submission.few(list(unscored_names))}; "
            "give --scores FILE or take another method"
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


def read_members(members: pd.DataFrame) -> tuple[pd.Index, np.ndarray]:
    """The best model's ImageIDs (N,) and all predictions (members, N) int8 in that order.

    Prints which ones are the same as another, as of one model predicted twice (NAME and NAME-2).
    UserError if the photos differ.
    """
    best, *others = members["path"]
    ids, first = submission.read_columns(best)
    photos = pd.Index(submission.as_text(ids))
    if not photos.is_unique:
        submission.read_submission(best)  # says which row
    ans = [first, *(_ans_of(path, ids, photos) for path in others)]
    ans, names = np.stack(ans), members["name"]
    for row, name in enumerate(names):
        twin = next((names[other] for other in range(row) if (ans[other] == ans[row]).all()), None)
        if twin:
            print(f"warning: {name} predicts the same as {twin} for every photo, so it votes twice")
    return photos, ans


def _ans_of(path: Path, ids: np.ndarray, photos: pd.Index) -> np.ndarray:
    """The predictions (N,) in the submission `path` for `photos`, `ids` as read_columns has them.

    UserError if its photos are others.
    """
    own_ids, ans = submission.read_columns(path)
    if np.array_equal(own_ids, ids):  # the usual case, far quicker than to look each one up
        return ans
    return ans[submission.align(path, submission.as_text(own_ids), photos)]


def probabilities_of(members: pd.DataFrame, photos: pd.Index):
    """Yield each model's probabilities (N, 18) in the order of `photos`."""
    for path in members["path"]:
        beside = path.with_suffix(".npz")
        ids, probabilities = submission.read_probabilities(beside)
        yield probabilities[submission.align(beside, ids, photos)]
