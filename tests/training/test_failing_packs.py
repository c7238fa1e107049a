"""Failures outside of a run's own step, failures that are the same for all runs of a pack, and what a failed run keeps."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_jobs import same, trained, write_config
from yaml_files import read_yaml

import stitching.training.job as training_job
import stitching.training.session as session
import stitching.training.trainer as trainer
from stitching.data.datasets import UnreadableImage
from stitching.data.loading import Batches
from stitching.launch.tasks import run_task
from stitching.runs.folder import write_yaml
from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.run import Run
from stitching.training.shared_prefixes import SharedPrefixes

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


def _job(lr: float = 0.01, cut: int = 1, **train_config) -> dict:
    """A stitched network of our own SmallNet that makes four steps, in a fraction of a second."""
    net = {"model_name": "smallnet", "num_blocks": 3, "width": 4, "in_chans": 1, "frozen": True}
    parts = [
        {"Subnet": {**net, "block_output": f"blocks.{cut - 1}"}},
        {"SimpleAdapter": {"num_conv": 1, "kernel_size": 1}},
        {"Subnet": {**net, "block_input": f"blocks.{cut}"}},
    ]
    settings = {
        "dataset": "digits", "data_preprocessing": {"image_size": 8}, "epochs": 2, "max_batches": 2, "batch_size": 32,
        "optimizer_args": {"lr": lr},
    }  # fmt: skip
    return {"model": {"Assembly": {"parts": parts}}, "train_config": settings | train_config}


def _jobs() -> list[dict]:
    return [_job(), _job(lr=0.02, cut=2), _job(lr=0.03, epochs=3)]


WILD = {"optimizer": "SGD", "optimizer_args": {"lr": 1e30}}


def _task(folder: Path, jobs: list[dict]) -> list[Path]:
    """Folders of a pack, as `submit` leaves them."""
    folders = [folder / f"run-{i}" for i in range(len(jobs))]
    for path, job in zip(folders, jobs, strict=True):
        path.mkdir(parents=True)
        write_yaml(path / "config.yml", {"data_path": str(folder), **job})
        write_yaml(path / "metadata.yml", {"state": "submitted"})
    return folders


def _left(folder: Path) -> tuple[str, str | None, str | None]:
    metadata = read_yaml(folder / "metadata.yml")
    return metadata["state"], metadata.get("failure"), metadata.get("cause")


def _short_of_memory(monkeypatch, owner: type, name: str, nth: int) -> None:
    """A memory in which there is room for one run only: several run out of it in the nth call of a method."""
    real, train, calls, runs = getattr(owner, name), training_job.train, [], []

    def counting(requests, options):
        runs.append(len(requests))
        return train(requests, options)

    def limited(*args, **kwargs):
        calls.append(1)
        if runs[-1] > 1 and len(calls) >= nth:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return real(*args, **kwargs)

    monkeypatch.setattr(training_job, "train", counting)
    monkeypatch.setattr(owner, name, limited)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    trained(_jobs()[:2], folder)
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [(SharedPrefixes, "__init__", 1), (FrozenNetworks, "__init__", 1), (SharedPrefixes, "forward", 2), (FrozenNetworks, "forward", 1), (Run, "train_step", 4)],
    ids=["setting up fronts", "setting up references", "in a shared front", "in a test", "in a step"],
)  # fmt: skip
def test_runs_that_have_not_enough_memory_together_are_trained_alone(
    tmp_path, monkeypatch, one_by_one, owner, name, nth
):
    folders = _task(tmp_path, _jobs()[:2])
    with monkeypatch.context() as patched:
        _short_of_memory(patched, owner, name, nth)
        assert run_task(folders) == {}
    for i, folder in enumerate(folders):
        assert _left(folder) == ("done", None, None)
        assert "note: this run is tried for itself; in a pack of 2: " in (folder / "log.txt").read_text()
        same(folder, one_by_one / f"run-{i}")


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (SharedPrefixes, "__init__", MemoryError()),
        (FrozenNetworks, "forward", torch.OutOfMemoryError(NO_MEMORY)),
        (Run, "train_step", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")),
        (Run, "eval_step", MemoryError()),
    ],
)
def test_out_of_memory_is_on_record_wherever_it_was(tmp_path, monkeypatch, owner, name, error):
    folders = _task(tmp_path, _jobs()[:2])

    def raises(*args, **kwargs):
        raise error

    monkeypatch.setattr(owner, name, raises)
    assert set(run_task(folders)) == {"run-0", "run-1"}
    for folder in folders:
        state, failure, cause = _left(folder)
        assert (state, cause) == ("failed", "out of memory")
        assert "not enough memory" in str(failure)
        assert "failed: " in (folder / "log.txt").read_text()


def test_a_single_job_that_runs_out_of_memory_between_steps_is_told_and_recorded(tmp_path, monkeypatch, cli):
    folder = write_config(tmp_path / "job", _jobs()[0])

    def raises(*args, **kwargs):
        raise torch.OutOfMemoryError(NO_MEMORY)

    monkeypatch.setattr(SharedPrefixes, "forward", raises)
    outcome = cli("train", "-c", folder / "config.yml")
    assert outcome.code == 2
    assert "not enough memory" in outcome.err
    assert "Traceback" not in outcome.err
    state, failure, cause = _left(folder)
    assert (state, cause) == ("failed", "out of memory")
    assert NO_MEMORY in str(failure)


def test_what_nobody_foresaw_is_on_record_too(tmp_path, monkeypatch):
    folders = _task(tmp_path, _jobs()[:2])

    def raises(*args, **kwargs):
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr(SharedPrefixes, "forward", raises)
    assert run_task(folders) == {f"run-{i}": "ZeroDivisionError: of our own" for i in range(2)}
    for folder in folders:
        assert _left(folder) == ("failed", "ZeroDivisionError: of our own", "error")
        assert "in raises" in (folder / "log.txt").read_text()  # the traceback


def test_a_failed_run_gives_its_memory_back_while_the_others_go_on(tmp_path, monkeypatch):
    step, kept, alive = Run.train_step, [], []

    def failing(self, *args, **kwargs):
        if self.name == "run-1" and self.step == 1:
            kept.extend(weakref.ref(each) for each in (self.network, self.learner.optimizer, self.log))
            raise RuntimeError("no more of it")
        if self.name == "run-2" and kept:
            alive.append([ref() is not None for ref in kept])
        step(self, *args, **kwargs)

    monkeypatch.setattr(Run, "train_step", failing)
    runs = trained(_jobs(), tmp_path)
    assert [run.failure for run in runs] == [None, "RuntimeError: no more of it", None]
    assert alive[0] == [False, False, False]
    assert len(alive) == 5


def test_a_broken_image_fails_all_runs_of_a_pack_at_once_and_they_go_on_once_it_is_mended(tmp_path, monkeypatch):
    for part, count in (("train", 24), ("val", 4)):
        for i in range(count):
            path = tmp_path / "image_folder" / part / f"class-{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 9 * i).save(path)
    config = {"dataset": "image_folder", "batch_size": 4, "data_preprocessing": {"image_size": 16, "channels": 1, "mean": [0.5], "std": [0.5]}}  # fmt: skip
    jobs = [_job(**config, max_batches=None, seed=3, epochs=epochs) for epochs in (1, 2)]
    trained([{"data_path": str(tmp_path), **job} for job in jobs], tmp_path / "undisturbed")
    broken = tmp_path / "image_folder" / "train" / "class-1" / "7.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"not an image")
    folders = _task(tmp_path, jobs)
    loops, run = [], trainer.Trainer.run

    def counted(self, **options):
        loops.append(len(self.runs))
        run(self, **options)

    monkeypatch.setattr(trainer.Trainer, "run", counted)
    failures = run_task(folders)
    assert loops == [2]
    assert set(failures) == {"run-0", "run-1"}
    steps = set()
    for folder in folders:
        state, failure, cause = _left(folder)
        assert (state, cause) == ("failed", "error")
        assert "7.png cannot be read" in str(failure)
        assert (folder / "checkpoint.pt").exists()
        steps.add(read_yaml(folder / "metadata.yml")["steps"])
    assert len(steps) == 1
    broken.write_bytes(whole)
    assert run_task(folders) == {}
    for i, folder in enumerate(folders):
        assert f"step {min(steps)}" in (folder / "log.txt").read_text()  # resumed there
        same(folder, tmp_path / "undisturbed" / f"run-{i}")


def test_a_broken_image_among_those_that_adapters_are_fitted_to_fails_all_at_once(tmp_path, monkeypatch):
    calls = []

    def raises(*args, **kwargs):
        calls.append(1)
        raise UnreadableImage("image 7 cannot be read")

    monkeypatch.setattr(session, "_fit", raises)
    folders = _task(tmp_path, _jobs()[:2])
    assert run_task(folders) == {f"run-{i}": "image 7 cannot be read" for i in range(2)}
    assert len(calls) == 1


@pytest.mark.parametrize("alone", [True, False])
def test_a_run_that_diverges_ends_and_the_others_go_on(tmp_path, one_by_one, alone):
    wild = _job(**WILD) | {"unfrozen": True}
    jobs = [wild] if alone else [*_jobs()[:1], wild]
    folders = _task(tmp_path, jobs)
    (words,) = run_task(folders).values()
    state, failure, cause = _left(folders[-1])
    assert (state, cause) == ("failed", "diverged")
    assert str(failure).startswith("diverged at step ")
    assert ": the loss is " in words
    steps = read_yaml(folders[-1] / "metadata.yml")["steps"]
    assert f"diverged at step {steps + 1}" in words
    assert steps < 6
    if not alone:
        assert _left(folders[0])[0] == "done"
        same(folders[0], one_by_one / "run-0")


def test_a_job_that_diverges_says_so(tmp_path, cli):
    job = _job(**WILD) | {"unfrozen": True}
    outcome = cli("train", "-c", write_config(tmp_path / "job", job) / "config.yml")
    assert outcome.code == 2
    assert "diverged at step" in outcome.err
    assert "smaller lr" in outcome.err


def test_a_pack_of_which_all_have_failed_loads_no_more_batches(tmp_path, monkeypatch):
    loads, epoch = [], Batches.epoch

    def counted(self, *args):
        for batch in epoch(self, *args):
            loads.append(self.split)
            yield batch

    monkeypatch.setattr(Batches, "epoch", counted)
    wild = _job(**WILD, max_batches=None, batch_size=16) | {"unfrozen": True}
    runs = trained([wild, _job(**WILD, max_batches=None, batch_size=16, epochs=3) | {"unfrozen": True}], tmp_path)
    assert all(run.cause == "diverged" for run in runs)
    assert 0 < loads.count("train") < 10  # of 90
