"""Several processes leave the dataframe that one leaves at the same batch size, but for rounding."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import several
from PIL import Image
from small_jobs import NARROW_RESNET, frame_of, stitched, trained, write_config
from yaml_files import read_yaml

from stitching.processes import ProcessRank, first_host, process_rank
from stitching.runs.folder import write_yaml

BLOCK = {"ResNetBasicBlock": {"out_channels": 8, "init_identity": False}}
FITTED = {
    "SimpleAdapter": {
        "num_conv": 1, "kernel_size": 1, "leading_norm": False, "trailing_norm": False, "nonlinearity": False,
        "init": "least_squares", "in_format": ["img", [8, 2, 2]],
    }
}  # fmt: skip


def _small(*cut: str, adapter: dict | None = None, batch_size: int = 64, **settings) -> dict:
    """A job whose rounding errors do not grow: AdamW would make whole steps of gradients that are zero but for them."""
    train_config = {
        "batch_size": batch_size, "optimizer": "SGD", "optimizer_args": {"lr": 0.01, "momentum": 0.9},
        "epochs": 1, "max_batches": 4,
    }  # fmt: skip
    train_config |= settings.pop("train_config", {})
    return stitched(*(cut or ("layer2", "layer3")), adapter, train_config=train_config, **settings)


def _two_tasks(data: Path) -> dict:
    for part, count in (("train", 30), ("val", 5)):
        for i in range(count):
            path = data / "image_folder" / part / f"class-{i % 3}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 80 * (i % 3) + i).save(path)
    job = _small(data_path=str(data))
    del job["train_config"]["dataset"]
    # The second process has no image of the small task's batches.
    job["train_config"]["tasks"] = [{"dataset": "digits"}, {"dataset": "image_folder", "batch_size": 1}]
    job["train_config"]["data_preprocessing"] |= {"channels": 1, "mean": [0.5], "std": [0.5]}
    adapter = {"SimpleAdapter": {"num_conv": 1, "kernel_size": 3}}
    heads = {"ParallelPart": {"parts": [{"ClassifierHead": {}}, {"ClassifierHead": {}}], "agg": "none"}}
    job["model"]["Assembly"]["parts"][1:] = [adapter, heads]
    return job


def _outputs_inside() -> dict:
    job = _small(train_config={"loss_fn_args": {"weight": [0.1 * (i + 1) for i in range(10)], "ignore_index": 3}})
    branches = [{"ClassifierHead": {}}, {"ClassifierHead": {}}]
    job["model"]["Assembly"]["parts"][2] = {"ParallelPart": {"parts": branches, "agg": "avg"}}
    job["train_config"] |= {
        "aux_losses": [{"output": "parts.2.net.parts.0", "weight": 0.5, "loss_fn": "multi_margin_loss"}],
        "max_grad_norm": 0.05,
    }
    job["metrics"] = [{"metric_fn": "accuracy", "output": "parts.2.net.parts.0"}]
    return job


def _jobs(data: Path) -> dict[str, dict]:
    return {
        "frozen parts": _small(adapter=BLOCK, checkpoint_initial_model=True),
        "unfrozen": _small(unfrozen=True),
        "batch statistics": _small("layer1", "layer3", frozen_norm="batch"),
        "two images at the end": _small(batch_size=205, train_config={"max_batches": None}),
        "one image in the last test": _small(batch_size=359, unfrozen=True),
        "two tasks": _two_tasks(data),
        "outputs inside": _outputs_inside(),
        "only tested": _small(test_only=True, batch_size=7),
        "least squares": _small("layer1", "layer3", adapter=FITTED, checkpoint_initial_model=True),
        "validation and a reference": _small(
            reference={"Net": NARROW_RESNET}, train_config={"validation": {"fraction": 0.1}}
        ),
    }


# What is trained by two processes alone; the others of the jobs are in the pack, with one of these.
ALONE = [
    "frozen parts", "two images at the end", "one image in the last test", "two tasks", "outputs inside", "only tested",
    "validation and a reference",
]  # fmt: skip
PACK = ["frozen parts", "unfrozen", "batch statistics", "least squares"]


def _submitted(folder: Path, job: dict) -> None:
    """What `submit` leaves for a task."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yml", job)
    write_yaml(folder / "metadata.yml", {"state": "submitted"})


THREADS_AT_THE_END = """
import atexit
from pathlib import Path
def threads():
    return sorted(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm"))
Path(f"threads before {rank}").write_text(str(threads()))
atexit.register(lambda: Path(f"threads after {rank}").write_text(str(threads())))
"""


def _trained_by(processes: int, tasks: list[list[str]], folder: Path) -> Path:
    """Train tasks of named jobs by so many processes; returns the folder of their run folders."""
    jobs = _jobs(folder / "data")
    arguments = []
    for task in tasks:
        for name in task:
            path = Path("pack" if len(task) > 1 else "alone") / name
            _submitted(folder / path, {"data_path": str(folder / "data"), **jobs[name]})  # a pack shares it
            arguments.append(path)
        arguments.append("+")
    code, out, err = several.run(processes, *arguments, folder=folder, sabotage=THREADS_AT_THE_END)
    assert code == 0, out + err
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A run folder of each job, trained by this one process."""
    folder = tmp_path_factory.mktemp("one")
    for name, job in _jobs(folder / "data").items():
        trained(job, folder / "runs" / name)
        (folder / "runs" / name / "run-0").rename(folder / name)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return _trained_by(2, [*([name] for name in ALONE), PACK], tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    return _trained_by(3, [PACK[::2], ["two images at the end"]], tmp_path_factory.mktemp("three"))


def _equal(left: Path, right: Path) -> None:
    pd.testing.assert_frame_equal(frame_of(left), frame_of(right), check_exact=False, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALONE)
def test_two_processes_leave_what_one_leaves(one, two, name):
    folder = two / "alone" / name
    _equal(folder, one / name)
    metadata = read_yaml(folder / "metadata.yml")
    assert (metadata["state"], metadata["processes"]) == ("done", 2)
    assert metadata["identity"] == read_yaml(one / name / "metadata.yml")["identity"]
    log = (folder / "log.txt").read_text().lower()
    assert log.count("before training" if name == "only tested" else "epoch 1,") == 1
    assert not (folder / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", PACK)
def test_two_processes_train_a_pack(one, two, name):
    _equal(two / "pack" / name, one / name)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_thread_of_the_group_is_left_when_the_interpreter_ends(two, rank):
    """One that drops a tensor then aborts the process, which is a failed job."""
    assert (two / f"threads after {rank}").read_text() == (two / f"threads before {rank}").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pack/frozen parts", "pack/batch statistics", "alone/two images at the end"])
def test_three_processes_too(one, three, name):
    _equal(three / name, one / Path(name).name)


def _long_job(folder: Path) -> dict:
    return _small(adapter=BLOCK, checkpoint_minutes=0, data_path=str(folder.parent), train_config={"epochs": 3})


def _long(folder: Path) -> Path:
    return write_config(folder, _long_job(folder))


@pytest.mark.parametrize("number", [signal.SIGUSR2, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stop_of_one_stops_all_and_any_number_goes_on(tmp_path, cli, number):
    folder = _long(tmp_path / "stopped")
    sabotage = f"""{several.NTH}
import torch
if rank == 1:
    torch.optim.SGD.step = nth(torch.optim.SGD.step, 7, lambda *a, **k: os.kill(os.getpid(), {int(number)}))
"""
    code, out, err = several.run(2, "train", "-c", "config.yml", folder=folder, sabotage=sabotage)
    assert code != 0
    assert out.count("Stopped; the checkpoint is") == 1, out + err
    metadata = read_yaml(folder / "metadata.yml")
    assert (metadata["state"], metadata["steps"]) == ("stopped", 6)
    shutil.copytree(folder, tmp_path / "goes on alone")
    code, out, err = several.run(2, "train", "-c", "config.yml", "--resume", folder=folder)
    assert code == 0, err
    assert out.count("Done") == 1
    assert cli("train", "-c", tmp_path / "goes on alone" / "config.yml", "--resume").code == 0
    undisturbed = _long(tmp_path / "undisturbed")
    assert cli("train", "-c", undisturbed / "config.yml").code == 0
    _equal(folder, undisturbed)
    _equal(tmp_path / "goes on alone", undisturbed)
    assert (folder / "log.txt").read_text().count("resumed at epoch 2, step 6") == 1


def _errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


def test_a_wrong_config_is_told_once(tmp_path):
    folder = write_config(tmp_path, _small(train_config={"optimizer_args": {"lr": 0.1, "momentmu": 0.9}}))
    code, _, err = several.run(2, "train", "-c", "config.yml", folder=folder)
    assert code != 0
    assert len(_errors(err)) == 1, err
    assert "did you mean 'momentum'" in _errors(err)[0]


UNREADABLE = """
from stitching.config.errors import UserError
from stitching.data.loading import Batches
epoch = Batches.epoch
def broken(self, *a, **k):
    for i, batch in enumerate(epoch(self, *a, **k)):
        if i == 2 and rank == 1:
            raise UserError("image 7 cannot be read")
        yield batch
Batches.epoch = broken
"""
KILLED = f"""{several.NTH}
import torch
if rank == 1:
    torch.optim.SGD.step = nth(torch.optim.SGD.step, 3, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
"""
NO_ROOM = """
import stitching.training.checkpoints as module
from stitching.config.errors import UserError
def full(path, write, **_):
    raise UserError(f"cannot write {path}: no space")
module.write_whole = full
"""


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (UNREADABLE, "image 7 cannot be read"),
        pytest.param(KILLED, "another process of the job was lost", marks=pytest.mark.slow),
        pytest.param(NO_ROOM, "no space", marks=pytest.mark.slow),
    ],
    ids=["unreadable", "killed", "no room"],
)
def test_what_fails_in_one_ends_all_with_the_reason_on_record(tmp_path, sabotage, words):
    folder = _long(tmp_path / "failing")
    command = ("train", "-c", "config.yml")
    code, _, err = several.run(2, *command, folder=folder, sabotage=sabotage, with_torchrun=True)
    assert code != 0
    assert [words in line for line in _errors(err)] == [True], err
    assert "Traceback" not in err.partition("torch/distributed/elastic")[0]
    metadata = read_yaml(folder / "metadata.yml")
    assert metadata["state"] == "failed"
    assert words in metadata["failure"]
    assert (folder / "log.txt").read_text().count("failed: ") == 1


@pytest.mark.slow
def test_a_failure_ends_a_pack(tmp_path):
    for name in ("a", "b"):
        _submitted(tmp_path / name, _long_job(tmp_path / name))
    code, _, _ = several.run(2, "a", "b", folder=tmp_path, sabotage=UNREADABLE)
    assert code != 0
    for name in ("a", "b"):
        metadata = read_yaml(tmp_path / name / "metadata.yml")
        assert (metadata["state"], metadata["failure"]) == ("failed", "image 7 cannot be read")


@pytest.mark.slow
def test_a_run_that_diverges_does_not_end_its_neighbours(tmp_path):
    wild = {"optimizer_args": {"lr": 1e30}}
    _submitted(tmp_path / "a", _small(data_path=str(tmp_path)))
    _submitted(tmp_path / "b", _small(data_path=str(tmp_path), unfrozen=True, train_config=wild))
    code, _, err = several.run(2, "a", "b", folder=tmp_path)
    assert code != 0
    assert "b: diverged at step " in err
    assert read_yaml(tmp_path / "a" / "metadata.yml")["state"] == "done"
    metadata = read_yaml(tmp_path / "b" / "metadata.yml")
    assert (metadata["state"], metadata["cause"]) == ("failed", "diverged")
    assert (tmp_path / "b" / "log.txt").read_text().count("failed: ") == 1


@pytest.mark.slow
def test_smoke_test_keeps_nothing(tmp_path):
    folder = _long(tmp_path / "job")
    code, out, err = several.run(2, "train", "-c", "config.yml", "--smoke-test", folder=folder)
    assert code == 0, err
    assert out.count("passed") == 1
    assert {path.name for path in folder.iterdir()} == {"config.yml", "out", "err"}  # `several` keeps what was printed


@pytest.mark.slow
def test_bf16_and_compiled_networks_run(tmp_path):
    job = _small(adapter=BLOCK, precision="bf16", channels_last=True, unfrozen=True, train_config={"max_batches": 2})
    _submitted(tmp_path / "bf16", job)
    _submitted(tmp_path / "compiled", _small(adapter=BLOCK, compile=True, train_config={"max_batches": 3}))
    code, out, err = several.run(2, "bf16", "+", "compiled", folder=tmp_path)
    assert code == 0, out + err
    trained(_small(adapter=BLOCK, train_config={"max_batches": 3}), tmp_path / "one")
    _equal(tmp_path / "compiled", tmp_path / "one" / "run-0")
    assert frame_of(tmp_path / "bf16")["Loss"].notna().all()


STEP = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-04]"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, ProcessRank()),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, ProcessRank(2, 4, 0, "torchrun")),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ProcessRank()),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, ProcessRank(3, 4, 1, "slurm")),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, ProcessRank()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, ProcessRank()),  # a batch script
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PTY_PORT": "4711"}, ProcessRank()),  # a shell of srun's
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "RANK": "5", "WORLD_SIZE": "8"}, ProcessRank(5, 8, 0, "torchrun")),
    ],
)
def test_the_place_in_a_job_is_found(environment, place):
    assert process_rank(environment) == place


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("a1,b2", "a1"), ("gpu[03-05,9],fat1", "gpu03"), ("n-1.x,n-2.x", "n-1.x")],
)
def test_the_first_host_of_a_list(tmp_path, monkeypatch, nodes, host):
    if "[" in nodes:
        _let_scontrol_answer(tmp_path, monkeypatch)
    assert first_host(nodes) == host


def test_a_list_of_hosts_that_slurm_cannot_read(tmp_path, monkeypatch):
    _let_scontrol_answer(tmp_path, monkeypatch)
    with pytest.raises(OSError, match=r"scontrol cannot read the list of machines gpu\[03-x\]: .*Invalid"):
        first_host("gpu[03-x]")


def test_a_list_of_hosts_where_there_is_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="scontrol"):
        first_host("gpu[03-05]")


def _let_scontrol_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wants a configuration, if not a Slurm that runs; without one it waits for a minute."""
    if shutil.which("scontrol") is None:
        pytest.skip("no Slurm here")
    lines = ["ClusterName=x", "SlurmctldHost=localhost", "NodeName=localhost", "PartitionName=x Nodes=localhost"]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
