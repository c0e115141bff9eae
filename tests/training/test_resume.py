"""Runs that are interrupted, resumed, extended, or whose data changed in between."""

import json
import os
import shutil
import signal
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import train
from benchmarks.forked import Forked
from core.errors import UserError
from prediction.runs import unfinished
from training import settings
from training.stop import Stop

COLUMNS = ["epoch", "lr", "loss", "macro_f1"]


def assert_same_end(whole, other):
    tensors, others = (load_file(run / "best.safetensors") for run in (whole, other))
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    tables = [pd.read_csv(run / "metrics.csv")[COLUMNS] for run in (whole, other)]
    pd.testing.assert_frame_equal(*tables)


def stop_at(monkeypatch, poll):
    """Let a run be asked to stop at its `poll`-th look, counted from 1."""
    looks = []

    def asked(self, save=False):
        looks.append(1)
        return len(looks) == poll, False

    monkeypatch.setattr(Stop, "poll", asked)


# 131 photos to train on: 8 batches, 2 updates an epoch, and a look after the first of them; then
# one look for each of the 5 batches of validation.
FLAGS = (
    "--epochs 2 --accumulate 4 --criterion f1 --f1_memory 0.9 --ema 0.9 --mixup 0.4 --drop 0.2 "
    "--sampling weighted --optimizer adamw --valid_batch_size 8 --workers 1"
).split()


def test_a_run_stopped_within_an_epoch_and_in_validation_goes_on_bit_for_bit(
    drawn, trained, tmp_path, monkeypatch
):
    whole = trained(drawn, tmp_path, *FLAGS, name="whole")
    for poll in (4, 3, 1):  # in the first validation; in the rest of it; within the second epoch
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
            stop_at(patched, poll)
            trained(drawn, tmp_path, *FLAGS, "--resume", "auto", name="cut")
        assert stopped.value.code == 128 + signal.SIGTERM
        if poll != 1:
            assert not (tmp_path / "cut" / "metrics.csv").exists()
    cut = trained(drawn, tmp_path, *FLAGS, "--resume", name="cut")
    assert_same_end(whole, cut)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_group_goes_on_to_the_same_weights(
    drawn, trained, training_flags, tmp_path, how
):
    """A process with loader workers, signalled as Slurm and systemd do it."""
    flags = "--epochs 4 --check_photos no --save_interval 0.001 --workers 2".split()
    whole = trained(drawn, tmp_path, *flags, name="whole")
    cut, said = training_flags(drawn, tmp_path, *flags, name="cut"), tmp_path / "said"
    process = Forked(cut, 1, said)
    run = tmp_path / "cut"
    while not (run / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    signalled = time.time()
    os.killpg(process.pid, how)
    said, _ = process.communicate()
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how), said
    assert (run / "last.ckpt").stat().st_mtime - signalled < 10
    assert "Traceback" not in said
    assert len(pd.read_csv(run / "metrics.csv")) < 4
    torch.set_num_threads(2)  # the run goes on with one, as it began
    assert_same_end(whole, trained(drawn, tmp_path, *flags, "--resume", name="cut"))
    assert torch.get_num_threads() == 1


def test_a_second_ctrl_c_stops_at_once_but_not_the_same_one_told_twice():
    before = signal.getsignal(signal.SIGINT)  # of a job in the background: ignored
    stop = Stop(world_size=1)
    with stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # passed on by torchrun
        assert stop.poll() == (True, False)
        stop.since -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_resume_refuses_a_flag_that_makes_another_run(drawn, trained, tmp_path):
    trained(drawn, tmp_path, "--epochs", "1")
    with pytest.raises(UserError, match="--lr"):
        trained(drawn, tmp_path, "--epochs", "1", "--lr", "0.5", "--resume")


def remove_people(data):
    (data / "train" / "train.csv").unlink()
    shutil.rmtree(sorted((data / "train" / "images").glob("0*"))[0])


def remove_a_photo(data):
    next((data / "train" / "images").glob("*/mask3.*")).unlink()


def correct_an_age(data):
    person = pd.read_csv(data / "train" / "train.csv")["path"][0]
    (data / "fix.csv").write_text(f"person,field,value\n{person},age,77\n")


def test_resume_refuses_data_that_changed(drawn, trained, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    (data / "fix.csv").write_text("person,field,value\n")
    other = pd.read_csv(data / "train" / "train.csv")[["path"]].rename(columns={"path": "person"})
    other.assign(fold=[0] * 5 + [-1] * 19).to_csv(data / "other.csv", index=False)
    flags = ("--epochs", "1", "--corrections", str(data / "fix.csv"))
    trained(data, tmp_path, *flags)

    def resumed(*more):
        with pytest.raises(UserError) as error:
            trained(data, tmp_path, *flags, "--resume", *more)
        return str(error.value)

    assert "--split" in resumed("--split", data / "other.csv")
    correct_an_age(data)
    assert "other labels of age" in resumed()
    remove_a_photo(data)
    assert "photos were added or removed" in resumed()
    remove_people(data)
    assert "1 person was removed" in resumed()


def test_what_saves_memory_may_be_changed_on_the_way(drawn, trained, tmp_path, monkeypatch, capsys):
    """As the message on a batch that no longer fits says."""
    flags = "--model test_vit --resize 160 160 --resume auto".split()
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 3)
        trained(drawn, tmp_path, "--epochs", "1", *flags)
    capsys.readouterr()
    trained(drawn, tmp_path, "--epochs", "1", *flags, "--checkpointing", "yes")
    assert "activation checkpointing" in capsys.readouterr().out


def test_a_finished_run_is_extended_and_an_unfinished_one_is_not(
    drawn, trained, tmp_path, monkeypatch, capsys
):
    flags = ("--optimizer", "adamw", "--warmup", "0")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 10)
        trained(drawn, tmp_path, "--epochs", "2", *flags)
    with pytest.raises(UserError, match="--epochs 2 --resume"):
        trained(drawn, tmp_path, "--epochs", "4", *flags, "--resume")
    assert unfinished(tmp_path / "a")
    run = trained(drawn, tmp_path, "--epochs", "2", *flags, "--resume")
    assert not unfinished(run)
    capsys.readouterr()
    trained(drawn, tmp_path, "--epochs", "4", *flags, "--resume")
    assert "extended to 4 epochs, with a new learning-rate schedule" in capsys.readouterr().out
    rates = pd.read_csv(run / "metrics.csv")["lr"]
    assert len(rates) == 4
    assert rates[2] > 10 * rates[1]
    assert rates[3] < rates[2] / 10
    assert json.loads((run / "config.json").read_text())["choices"]["first_epoch"] == 2


def test_an_extended_run_may_be_interrupted_at_once_and_be_patient(
    drawn, trained, tmp_path, monkeypatch
):
    flags = "--workers 0 --patience 9 --resume auto".split()
    trained(drawn, tmp_path, "--epochs", "1", *flags, name="whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    whole = trained(drawn, tmp_path, "--epochs", "3", *flags, name="whole")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 3)
        trained(drawn, tmp_path, "--epochs", "3", *flags, name="cut")
    with pytest.raises(UserError, match="--epochs 3 --resume"):
        trained(drawn, tmp_path, "--epochs", "4", *flags, name="cut")
    assert_same_end(whole, trained(drawn, tmp_path, "--epochs", "3", *flags, name="cut"))


def test_patience_stops_a_run_that_no_longer_improves(drawn, trained, tmp_path, capsys):
    flags = "--epochs 6 --lr 1e-12 --optimizer adamw --patience 2".split()
    run = trained(drawn, tmp_path, *flags)
    assert "stopped early" in capsys.readouterr().out
    best = pd.read_csv(run / "metrics.csv")["macro_f1"]
    assert len(best) < 6
    trained(drawn, tmp_path, *flags, "--resume")
    assert len(pd.read_csv(run / "metrics.csv")) == len(best)


def test_checkpoints_are_kept_as_asked_and_serve(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "4", "--keep", "2")
    kept = ["epoch-0003.ckpt", "epoch-0004.ckpt", "last.ckpt"]
    assert sorted(path.name for path in run.glob("*.ckpt")) == kept
    shutil.copytree(run, tmp_path / "whole")
    (run / "last.ckpt").write_bytes(b"broken")
    with pytest.raises(UserError, match="epoch-N"):
        trained(drawn, tmp_path, "--epochs", "4", "--resume")
    shutil.copy(run / "epoch-0003.ckpt", run / "last.ckpt")
    again = trained(drawn, tmp_path, "--epochs", "4", "--resume", "auto")
    assert_same_end(tmp_path / "whole", again)


def test_resume_auto_starts_a_run_that_is_not_there_or_wrote_nothing(
    drawn, trained, tmp_path, monkeypatch
):
    flags = ("--epochs", "1", "--resume", "auto")
    for where, name in ((train, "write_split"), (train.run_folder, "write_config")):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(where, name, interrupt)
            trained(drawn, tmp_path, *flags)
        assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()  # what a killed process leaves
    (tmp_path / "a" / ".config.json.0a1b2c3d.part").touch()
    assert trained(drawn, tmp_path, *flags).name == "a"
    assert trained(drawn, tmp_path, "--epochs", "1").name == "a-2"


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_killed_processes_were_writing_is_removed_on_resume(drawn, trained, tmp_path):
    run = trained(drawn, tmp_path, "--epochs", "1")
    old, new = run / ".last.ckpt.0a1b2c3d.part.ckpt", run / ".last.ckpt.1b2c3d4e.part.ckpt"
    old.touch()
    new.touch()  # perhaps of a process that saves still
    os.utime(old, (0, 0))
    trained(drawn, tmp_path, "--epochs", "1", "--resume")
    assert not old.exists()
    assert new.exists()


def test_a_run_without_validation_and_one_update_an_epoch_is_stopped(
    drawn, trained, tmp_path, monkeypatch
):
    flags = ("--epochs", "3", "--val_ratio", "0", "--accumulate", "100")
    whole = trained(drawn, tmp_path, *flags, name="whole")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 2)
        trained(drawn, tmp_path, *flags, name="cut")
    assert len(pd.read_csv(tmp_path / "cut" / "metrics.csv")) == 1
    cut = trained(drawn, tmp_path, *flags, "--resume", name="cut")
    tensors, others = (load_file(run / "best.safetensors") for run in (whole, cut))
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_run_goes_on_without_its_pretrained_weights_and_on_another_device(
    drawn, trained, tmp_path, monkeypatch
):
    """A machine that takes over for another one may have no network and no GPU."""
    first = trained(drawn, tmp_path, "--epochs", "1", name="first")
    weights = tmp_path / "weights.safetensors"
    shutil.copy(first / "best.safetensors", weights)
    flags = ("--pretrained", weights, "--epochs", "2", "--drop", "0.2")
    whole = trained(drawn, tmp_path, *flags, name="whole")
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        stop_at(patched, 10)
        trained(drawn, tmp_path, *flags, name="cut")
    weights.unlink()
    file = tmp_path / "cut" / "last.ckpt"
    stored = torch.load(file, weights_only=True)
    stored["ranks"][0] |= {"device": "cuda", "device_random": torch.zeros(16, dtype=torch.uint8)}
    torch.save(stored, file)
    assert_same_end(whole, trained(drawn, tmp_path, *flags, "--resume", name="cut"))


@pytest.mark.parametrize("part", ["fold", "member"])
def test_resume_auto_goes_on_with_the_parts_of_a_run_stopped_after_the_first(
    drawn, trained, tmp_path, part
):
    flags = (f"--{part}s", "2", "--epochs", "1", "--resume", "auto")
    run = trained(drawn, tmp_path, *flags)
    whole = pd.read_csv(run / "val_predictions.csv")
    first = (run / f"{part}-0" / "last.ckpt").stat().st_mtime_ns
    shutil.rmtree(run / f"{part}-1")
    for name in ("config.json", "split.csv", "val_predictions.csv"):
        (run / name).unlink()
    again = trained(drawn, tmp_path, *flags)
    assert again == run
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["a"]
    assert pd.read_csv(run / "val_predictions.csv").equals(whole)
    assert (run / f"{part}-0" / "last.ckpt").stat().st_mtime_ns == first  # not trained again


def test_resume_adds_members_to_a_run_and_takes_none_away(drawn, trained, tmp_path):
    flags = ("--epochs", "1", "--members")
    whole = trained(drawn, tmp_path, *flags, "2", name="whole")
    run = trained(drawn, tmp_path, *flags, "1")
    first = (run / "member-0" / "last.ckpt").stat().st_mtime_ns
    assert trained(drawn, tmp_path, *flags, "2", "--resume") == run
    assert (run / "member-0" / "last.ckpt").stat().st_mtime_ns == first
    columns = ["person", "label", "p0", "p17"]
    tables = [pd.read_csv(path / "val_predictions.csv")[columns] for path in (whole, run)]
    assert tables[0].equals(tables[1])
    assert json.loads((run / "config.json").read_text())["settings"]["members"] == 2
    for interrupted in (False, True):  # then only member-0 tells, which was begun as the only one
        if interrupted:
            (run / "config.json").unlink()
        with pytest.raises(UserError, match="--members 2, now it is 1"):
            trained(drawn, tmp_path, *flags, "1", "--resume")


@pytest.mark.parametrize("flag", ["--folds", "--members"])
def test_resume_makes_no_folds_or_members_of_a_single_training(drawn, trained, tmp_path, flag):
    trained(drawn, tmp_path, "--epochs", "1")
    with pytest.raises(UserError, match=f"had {flag} None, now it is 2"):
        trained(drawn, tmp_path, "--epochs", "1", flag, "2", "--resume")


def test_a_run_of_the_version_before_goes_on(drawn, trained, tmp_path, training_flags):
    """Its checkpoint held one random state and the sums of the losses, its config the flags."""
    flags = ("--epochs", "2", "--drop_ages", "57", "59", "--offsets", "tuned")
    whole = trained(drawn, tmp_path, *flags, "--keep", "2", name="whole")
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    stored = torch.load(old / "epoch-0001.ckpt", weights_only=True)
    stored["random"] = stored.pop("ranks")[0]["random"]
    for name in ("validated", "finished"):
        del stored[name]
    rows = pd.read_csv(old / "metrics.csv").head(1).to_dict("records")
    torch.save(stored | {"total": [0.0], "rows": rows, "best": rows[0]}, old / "last.ckpt")
    config = json.loads((old / "config.json").read_text())
    config["settings"] |= {"drop_ages": [57, 59], "offsets": "yes"}
    known = ("precision", "channels_last", "reason", "checkpointing", "split", "threads")
    choices = {name: config["choices"][name] for name in known} | {"compiled": False}
    del config["data"]
    (old / "config.json").write_text(json.dumps(config | {"choices": choices}))
    train.main(settings.parse(training_flags(drawn, tmp_path, *flags, "--resume", name="old")))
    assert_same_end(whole, old)
