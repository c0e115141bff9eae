"""One run's folder."""

from training import run_folder


def test_without_git_the_revision_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_folder.revision() == "unknown"
