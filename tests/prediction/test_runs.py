"""Which models a run's name means, and whether their training is finished."""

import json

import pytest

from prediction import runs


@pytest.fixture
def run(tmp_path):
    """run(models by folder: finished or not, or None: not on record, flags) -> the run's folder."""

    def make(models, **flags):
        for folder, finished in models.items():
            path = tmp_path / folder
            path.mkdir(exist_ok=True)
            (path / "best.safetensors").touch()
            config = {"settings": flags} | ({} if finished is None else {"finished": finished})
            (path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("models", "flags", "lacking"),
    [
        ({".": True}, {}, None),
        ({".": False}, {}, "its best weights so far are used"),
        ({".": None}, {}, None),  # of a version that did not note it
        ({".": True}, {"folds": 5, "fold": 2}, None),  # one fold of five is all that was asked for
        ({"fold-0": True, "fold-1": True}, {"folds": 2}, None),
        ({"fold-0": True, "fold-1": False}, {"folds": 3}, "it has trained 1 of its 3 models"),
        ({"member-0": True, "member-1": True}, {"members": 5}, "it has trained 2 of its 5 models"),
        ({"member-0": None, "member-1": None}, {"members": 2}, None),
    ],
)
def test_a_run_that_is_not_finished_is_known_as_such(run, models, flags, lacking):
    assert runs.unfinished(run(models, **flags)) == lacking


def test_a_run_with_more_members_than_it_began_with_is_not_finished_before_the_last(run):
    run({"member-0": True}, members=1)
    lacking = runs.unfinished(run({"member-1": False}, members=2))
    assert lacking == "it has trained 1 of its 2 models"
    assert runs.unfinished(run({"member-1": True}, members=2)) is None
