"""Vote on one class per photo over the CSVs of several models, show what each adds, or combine
models of one attribute each.
"""

import argparse
import math
from pathlib import Path

from core.cli import ArgumentParser, HelpFormatter, add_commands, add_labels, run
from core.errors import UserError

METHODS = ("hard", "attribute", "weighted", "soft")
EXAMPLES = """\
methods:
  hard       the class that most models predict
  attribute  mask, gender and age voted separately, then put together
  weighted   as hard, each model's vote weighted by its score
  soft       the highest mean probability, from the npz beside each CSV;
             on real faces it mostly scored more than hard
In a tie, the class that the best of the tied models predicts wins.

examples:
  python ensemble.py vote output/*.csv --top_k 8
  python ensemble.py vote output/*.csv --scores board.csv --method attribute
  python ensemble.py vote swin.csv beit.csv --order given --output final.csv
  python ensemble.py members output/*.csv --labels sample/eval_answers.csv
  python ensemble.py combine --mask a.csv --gender b.csv --age c.csv
"""


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


# fmt: off
MODELS = {
    "csv": {"metavar": "CSV", "nargs": "+", "type": Path,
            "help": "submissions (ImageID,ans); earlier votes are ignored"},
    "--top_k": {"metavar": "K", "type": positive, "help": "use only the best K (default: all)"},
    "--order": {"choices": ("score", "given"), "default": "score",
                "help": "rank models by score, or as given"},
    "--scores": {"metavar": "FILE", "type": Path, "help": "leaderboard scores: a CSV with the "
                 "columns name,score, or a JSON of name: score, where name is the CSV file's "
                 "(default: validation macro-F1, from the JSON beside each CSV)"},
    "--method": {"choices": METHODS, "default": "hard", "help": "voting method, see below"},
}
OVERWRITE = {"--overwrite": {"action": "store_true", "help":
             "replace an earlier vote of that name, instead of writing NAME-2.csv"}}
# command -> one line for the list of commands, what it does, flags
COMMANDS = {
    "vote": (
        "vote on one class per photo",
        "Write the vote as a submission, and show how far each model agrees with it.",
        {**MODELS, "--output": {"metavar": "FILE", "type": Path, "help":
                   "the CSV to write (default: vote-METHOD-K.csv beside the first CSV)"},
         **OVERWRITE},
    ),
    "members": (
        "show what each model adds",
        "Score each model, the vote of all, and the vote without each of them.",
        MODELS,
    ),
    "combine": (
        "join predictions of mask, gender and age by different models",
        "Take the mask of one submission, the gender of another and the age band of a third.",
        {**{f"--{name}": {"metavar": "CSV", "type": Path, "required": True,
                          "help": f"the submission to take the {name} from"}
            for name in ("mask", "gender", "age")},
         "--output": {"metavar": "FILE", "type": Path, "help":
                      "the CSV to write (default: combined.csv beside the first CSV)"},
         **OVERWRITE},
    ),
}
# fmt: on


def parse_args(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter)
    table = {name: (*texts, EXAMPLES, flags) for name, (*texts, flags) in COMMANDS.items()}
    commands = add_commands(parser, table)
    add_labels(commands["members"], "CSV of the ground truth (ImageID,ans)", required=True)
    return parser.parse_args(argv)


ARGS = parse_args() if __name__ == "__main__" else None

import numpy as np
import pandas as pd

from core.labels import decode, join
from core.metrics import macro_f1
from prediction import submission
from prediction.members import choose, probabilities_of, read_members
from prediction.voting import cast_votes
from prediction.words import attribute_probabilities

OWN = ("vote", "combination")  # kinds of submission that ensemble.py writes


def output_of(args, default: Path) -> Path:
    """Where to write: --output or `default`, under the next free name unless --overwrite.

    UserError if it could not be written, or if --overwrite would replace more than a vote.
    """
    wanted = args.output or default
    if wanted.suffix.lower() != ".csv":
        raise UserError(f"--output {wanted}: give a name that ends in .csv")
    output = submission.output_path(wanted, args.overwrite)
    for existing in submission.files_of(output)[:3]:
        if existing.exists() and submission.read_sidecar(output).get("kind") not in OWN:
            raise UserError(f"--overwrite: {existing} is not a vote; give another --output")
    if output != wanted:
        print(f"{wanted} exists: this one is {output.name} (--overwrite replaces it)")
    return output


def vote(args) -> None:
    """Vote, write the CSV (with json and, for soft, npz) and show how far each model agrees."""
    members = choose(args)
    output = output_of(args, args.csv[0].with_name(f"vote-{args.method}-{len(members)}.csv"))
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
        f"\n{args.method} vote of {len(members)} on {len(photos):,} photos; "
        f"ties go to the model {by}\n"
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
    """Write the vote; the json first, so that a CSV is always known for a vote."""
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
    # an earlier soft vote's would not belong to these predictions
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
        print(
            f"{row + 1:3} {name:{width}}  {macro_f1(labels, ans[row]):.4f}  {without:15.4f}  "
            f"{together - without:+12.4f}"
        )
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


def combine(args) -> None:
    """Write the mask of one submission with the gender of another and the age of a third.

    With probabilities beside all three the most probable value of each attribute is taken, and the
    product of the attributes' probabilities is written; else the attributes of each `ans`.
    """
    sources = {"mask": args.mask, "gender": args.gender, "age": args.age}
    output = output_of(args, args.mask.with_name("combined.csv"))
    photos = pd.Index(submission.read_submission(args.mask)["ImageID"])
    soft = all(path.with_suffix(".npz").is_file() for path in sources.values())
    values, shares = [], []
    for axis, (name, path) in enumerate(sources.items()):
        learnt = submission.read_sidecar(path).get("attribute")
        if learnt not in (None, name):
            raise UserError(f"--{name} {path}: predicts the {learnt} alone")
        if soft:
            ids, probabilities = submission.read_probabilities(path.with_suffix(".npz"))
            rows = probabilities[submission.align(path.with_suffix(".npz"), ids, photos)]
            shares.append(attribute_probabilities(rows)[name])
            values.append(shares[-1].argmax(axis=1))
        else:
            frame = submission.read_submission(path)
            ans = frame["ans"].to_numpy()[submission.align(path, frame["ImageID"], photos)]
            values.append(decode(ans)[axis])
    content = {"name": output.stem, "kind": "combination", "macro_f1": None}
    content["members"] = {name: path.stem for name, path in sources.items()}
    submission.write_sidecar(output, content)
    output.with_suffix(".npz").unlink(missing_ok=True)
    if soft:
        joint = np.einsum("nm,ng,na->nmga", *shares).reshape(len(photos), -1)
        submission.write_probabilities(output.with_suffix(".npz"), photos, joint)
    combined = join(*values)
    submission.write_submission(output, pd.DataFrame({"ImageID": photos, "ans": combined}))
    how = "the probabilities" if soft else "the classes"
    print(f"mask, gender and age put together from {how} of three submissions: {output}")


def show(score: float) -> str:
    return f"{score:6.4f}" if score == score else "     -"  # nan: no score is known


if __name__ == "__main__":
    run({"vote": vote, "members": contributions, "combine": combine}[ARGS.command], ARGS)
