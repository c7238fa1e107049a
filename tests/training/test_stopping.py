"""Promises 5 and 6: killed at any instant and resumed, a run leaves what it would have left undisturbed."""

from __future__ import annotations

import random
import signal
import time

import pytest
import torch
import yaml
from damages import damaged
from small_jobs import NARROW_RESNET, frame_of, same, stitched, trained, write_config

ADAPTER = {"VisionTransformerBlock": {"num_heads": 2, "dropout": 0.2, "in_format": ["token", [8, 4]]}}


def _job() -> dict:
    reference = {"Net": NARROW_RESNET}
    job = stitched("layer2", "layer3", ADAPTER, checkpoint_minutes=0, workers=0, reference=reference)
    job["train_config"] |= {
        "validation": {"fraction": 0.1},
        "epochs": 3, "lr_scheduler": "OneCycleLR",
        "lr_scheduler_args": {"cadence": "steps", "max_lr": 0.02, "total_steps": 20},
        "data_preprocessing": {"image_size": 16, "data_augmentation": True, "train_crop": "pad"},
    }  # fmt: skip
    return job


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
NTH = """
def nth(function, n, instead):
    calls = [0]
    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == n:
            instead(*args, **kwargs)
        return function(*args, **kwargs)
    return wrapped
"""
IN_A_STEP = f"""{NTH}
import torch
torch.optim.AdamW.step = nth(torch.optim.AdamW.step, 9, lambda *a, **k: {KILL})
"""
WRITING_A_CHECKPOINT = f"""{NTH}
import torch
def half(state, file, *args, **kwargs):
    import io
    whole = io.BytesIO(); whole_save(state, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2]); file.flush()
    {KILL}
whole_save = torch.save
torch.save = nth(torch.save, 8, half)
"""
BEFORE_THE_RENAMES = f"""{NTH}
os.replace = nth(os.replace, 8, lambda *a, **k: {KILL})
"""
BETWEEN_THE_RENAMES = BEFORE_THE_RENAMES.replace("8", "9")
IN_A_TEST = f"""{NTH}
from stitching.training.run import Run
Run.eval_step = nth(Run.eval_step, 4, lambda *a, **k: {KILL})
"""
BETWEEN_RESULT_AND_END = f"""{NTH}
import stitching.training.saving as saving
saving.record_end = nth(saving.record_end, 1, lambda *a, **k: {KILL})
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    trained(_job(), folder)
    return folder / "run-0"


@pytest.mark.parametrize(
    "sabotage",
    [IN_A_STEP, WRITING_A_CHECKPOINT, BEFORE_THE_RENAMES, BETWEEN_THE_RENAMES, IN_A_TEST, BETWEEN_RESULT_AND_END],
    ids=["in a step", "writing a checkpoint", "before the renames", "between them", "in a test", "before done"],
)
def test_killed_and_resumed_is_undisturbed(tmp_path, command_line, cli, undisturbed, sabotage):
    folder = write_config(tmp_path / "killed", _job())
    code, _, err = command_line(folder, "train", "-c", "config.yml", sabotage=sabotage)
    assert code == -signal.SIGKILL, err
    newest = "checkpoint.previous.pt" if sabotage == BETWEEN_THE_RENAMES else "checkpoint.pt"
    assert max(path.name for path in folder.glob("checkpoint*")) == newest
    resumed = cli("train", "-c", folder / "config.yml", "--resume")
    assert resumed.code == 0, resumed.err
    assert "resumed at epoch" in (folder / "log.txt").read_text()
    same(folder, undisturbed)
    assert not list(folder.glob("checkpoint*"))
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_instant_again_and_again(tmp_path, command_line, undisturbed, seed):
    folder = write_config(tmp_path / "killed", _job())
    generator = random.Random(seed)
    for _ in range(4):
        process = command_line(folder, "train", "-c", "config.yml", "--resume", wait=False)
        time.sleep(generator.uniform(3, 9))
        process.kill()
        process.communicate()
    code, _, err = command_line(folder, "train", "-c", "config.yml", "--resume")
    assert code == 0, err
    same(folder, undisturbed)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, command_line, cli, undisturbed):
    folder = write_config(tmp_path / "stopped", _job())
    sabotage = f"""{NTH}
import torch
torch.optim.AdamW.step = nth(torch.optim.AdamW.step, 8, lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
"""
    code, out, err = command_line(folder, "train", "-c", "config.yml", sabotage=sabotage)
    assert code == 130, err
    assert "stitching train -c config.yml --resume" in out
    assert "Traceback" not in err
    assert yaml.safe_load((folder / "metadata.yml").read_text())["state"] == "stopped"

    again = cli("train", "-c", folder / "config.yml")
    assert again.code == 2  # it would lose what is there
    assert "--resume" in again.err
    other = cli("train", "-c", folder / "config.yml", "--resume", "--lr", "0.5")
    assert other.code == 2
    assert "another config" in other.err
    assert "lr (0.01 there, 0.5 here)" in other.err

    assert cli("train", "-c", folder / "config.yml", "--resume").code == 0
    same(folder, undisturbed)
    assert "Nothing to do" in cli("train", "-c", folder / "config.yml", "--resume").out


def test_two_at_once_in_one_folder(tmp_path, command_line, cli):
    job = _job()
    job["train_config"]["epochs"] = 200
    job["train_config"]["lr_scheduler_args"]["total_steps"] = 2000
    folder = write_config(tmp_path / "busy", job)
    process = command_line(folder, "train", "-c", "config.yml", wait=False)
    try:
        while not (folder / "metadata.yml").exists():
            assert process.poll() is None
            time.sleep(0.1)
        second = cli("train", "-c", folder / "config.yml", "--overwrite")
        assert second.code == 2
        assert "another process is training" in second.err
    finally:
        process.kill()
        process.communicate()


def test_a_full_disk_costs_the_newest_checkpoint_only(tmp_path, command_line, cli, undisturbed):
    folder = write_config(tmp_path / "full", _job())
    # The limit on a file's size stands in for the end of the disk: the system refuses the write in the same way.
    sabotage = f"""{NTH}
import resource, torch
def fill(*args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
torch.save = nth(torch.save, 9, fill)
"""
    code, _, err = command_line(folder, "train", "-c", "config.yml", sabotage=sabotage)
    assert code == 2, err
    assert "cannot write" in err
    assert "checkpoint.pt" in err
    assert "Traceback" not in err
    assert not list(folder.glob(".*.tmp"))
    assert cli("train", "-c", folder / "config.yml", "--resume").code == 0
    same(folder, undisturbed)


def test_a_log_that_cannot_be_written_costs_no_run(tmp_path, undisturbed, capsys):
    (tmp_path / "run-0" / "log.txt").mkdir(parents=True)  # stands in for the end of the disk: each line is refused
    (run,) = trained(_job(), tmp_path)
    assert run.failure is None
    same(tmp_path / "run-0", undisturbed)
    assert "cannot write to" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_resumed(tmp_path, command_line, cli, undisturbed):
    folder = write_config(tmp_path / "damaged", _job())
    assert command_line(folder, "train", "-c", "config.yml", sabotage=IN_A_STEP)[0] == -signal.SIGKILL
    step = torch.load(folder / "checkpoint.pt")["place"]["step"]
    damaged = bytearray((folder / "checkpoint.pt").read_bytes())
    damaged[len(damaged) // 3] ^= 4
    (folder / "checkpoint.pt").write_bytes(damaged)
    resumed = cli("train", "-c", folder / "config.yml", "--resume")
    assert resumed.code == 0, resumed.err
    log = (folder / "log.txt").read_text()
    for said in (resumed.err, log):
        assert "checkpoint.pt is damaged and was renamed to checkpoint.damaged-1.pt" in said
        assert "resumes from checkpoint.previous.pt" in said
    assert f"step {step - 1}\n" in log
    same(folder, undisturbed)
    assert (folder / "checkpoint.damaged-1.pt").read_bytes() == damaged
    assert not list(folder.glob("checkpoint.p*"))


@pytest.mark.slow
def test_damage_anywhere_in_a_checkpoint_changes_no_number(tmp_path, command_line, cli, undisturbed):
    folder = write_config(tmp_path / "damaged", _job())
    assert command_line(folder, "train", "-c", "config.yml", sabotage=IN_A_STEP)[0] == -signal.SIGKILL
    whole = (folder / "checkpoint.pt").read_bytes()
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    for changed in damaged(whole, 38):
        for path in folder.iterdir():
            path.unlink()
        for name, data in left.items():
            (folder / name).write_bytes(changed if name == "checkpoint.pt" else data)
        resumed = cli("train", "-c", folder / "config.yml", "--resume")
        assert resumed.code == 0, resumed.err
        assert "checkpoint.pt is damaged" in resumed.err
        same(folder, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_starts_again(tmp_path, cli, undisturbed):
    folder = write_config(tmp_path / "damaged", _job())
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (folder / name).write_bytes(b"PK\x03\x04 cut off")
    outcome = cli("train", "-c", folder / "config.yml", "--resume")
    assert outcome.code == 0, outcome.err
    assert "starts again from the beginning" in outcome.err
    same(folder, undisturbed)
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint.damaged-1.pt", "checkpoint.damaged-2.pt"}


def test_a_checkpoint_without_a_digest_is_refused(tmp_path, cli):
    folder = write_config(tmp_path / "older", _job())
    torch.save({"place": {}, "identity": "x"}, folder / "checkpoint.pt")
    outcome = cli("train", "-c", folder / "config.yml", "--resume")
    assert outcome.code == 2
    assert "checkpoint.pt has no digest" in outcome.err
    assert (folder / "checkpoint.pt").exists()


def test_workers_change_nothing(tmp_path, undisturbed):
    job = _job()
    job["workers"] = 2
    trained(job, tmp_path)
    same(tmp_path / "run-0", undisturbed)
    assert len(frame_of(tmp_path / "run-0")) == 18
