"""Job kinds: a second one, registered as a plugin would, goes through every door that `train` does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from yaml_files import read_yaml

from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.config.job_files import read_settings
from stitching.config.parts import PartField
from stitching.config.schema import Schema
from stitching.config.yaml import load_yaml
from stitching.launch.packing import packed
from stitching.launch.tasks import run_task
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.kinds import KINDS, kind_of, load_job, marked_kind
from stitching.runs.step_log import read_steps

NEAREST = '''
"""A job kind that trains nothing: how well one nearest neighbour among n images classifies by pixels."""

import torch

from stitching.config.job_config import JobSettings
from stitching.config.schema import Schema
from stitching.data.loading import Batches
from stitching.config.preprocessing import Preprocessing
from stitching.runs.folder import write_yaml
from stitching.runs.kinds import KINDS, JobKind
from stitching.runs.step_log import StepLog, read_steps
from stitching.runs.stopping import Interrupted


class Nearest(Schema):
    images: list[int]


class NearestJob(JobSettings):
    nearest: Nearest


class NearestRun:
    def __init__(self, request):
        self.job, self.folder = request.job, request.folder
        self.failure, self.cause, self.final = None, "error", {}


@KINDS.register("nearest")
class NearestKind(JobKind[NearestJob]):
    name = "nearest"
    key = "nearest"
    schema = NearestJob

    def check(self, job, remember):
        if min(job.nearest.images) < 1:
            from stitching.config.errors import UserError

            raise UserError("no image at all", path=("nearest", "images"))

    def run(self, requests, options):
        return [self._run(request, options) for request in requests]

    def _run(self, request, options):
        run = NearestRun(request)
        with request.locked() as folder:
            metadata = (folder.read_metadata() or {}) | {"identity": self.identity(run.job), "state": "running"}
            log = StepLog(read_steps(folder).to_dict("records") if options.resume and folder.steps.exists() else [])
            write_yaml(folder.metadata, metadata)
            for number, images in enumerate(run.job.nearest.images[len(log.rows):], len(log.rows) + 1):
                if options.stop.asked:
                    write_yaml(folder.metadata, metadata | {"state": "stopped", "steps": len(log.rows)})
                    raise Interrupted
                accuracy = self.accuracy(run.job, images)
                log.add({"Step": number, "Epoch": number, "Images": images, "Overall/Test Accuracy": accuracy})
                metadata["digests"] = log.save(folder.result)
                options.on_progress(number, len(run.job.nearest.images), f"{images} images")
            run.final = {"Overall/Test Accuracy": log.rows[-1]["Overall/Test Accuracy"]}
            write_yaml(folder.metadata, metadata | {"state": "done", "final": run.final, "config": run.job.to_yaml()})
        return run

    def accuracy(self, job, images):
        config = job.train_config
        sets = [
            Batches(config.dataset, job.data_path, batch_size=256, preprocessing=Preprocessing(), seed=config.seed, split=split, only=only)
            for split, only in (("train", images), ("test", None))
        ]
        (x, y), (test_x, test_y) = (
            [torch.cat(each) for each in zip(*((a.flatten(1), b) for a, b in batches.epoch(0)))] for batches in sets
        )
        return float((y[torch.cdist(test_x, x).argmin(1)] == test_y).float().mean())

    def smoke_test(self, document, progress):
        return f"{self.accuracy(self.read(document), 1):.2f} with one image"
'''

JOB = "nearest: {images: [1, 50, 400]}\ntrain_config: {dataset: digits, seed: 3}\n"


@pytest.fixture
def nearest(tmp_path, monkeypatch):
    """The kind, for the time of a test."""
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS.items()))
    monkeypatch.setattr(KINDS, "_origins", dict(KINDS._origins))
    (tmp_path / "my_kinds.py").write_text(NEAREST)
    spec = importlib.util.spec_from_file_location("my_kinds", tmp_path / "my_kinds.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.usefixtures("nearest")
def test_the_command_train_runs_a_job_of_another_kind_and_knows_it_again(cli, write):
    config = write("config.yml", JOB)
    shown = cli("train", "-c", config)
    assert shown.code == 0, shown.err
    assert "Done: test accuracy 0." in shown.out
    folder = RunFolder(config.parent)
    assert list(read_steps(folder)["Images"]) == [1, 50, 400]
    assert "Nothing to do" in cli("train", "-c", config, "--resume").out
    shown = cli("train", "-c", config, "--resume", "--set", "nearest.images=[1, 2]")
    assert "is the result of another config" in shown.err
    assert "smoke test passed: 0." in cli("train", "-c", config, "--smoke-test").out


@pytest.mark.usefixtures("nearest")
def test_a_stopped_run_of_another_kind_goes_on_as_a_task_of_the_launcher(write, tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.path.mkdir()
    job = load_job(write("config.yml", JOB))
    write_yaml(folder.path / "config.yml", job.to_yaml())
    write_yaml(folder.metadata, {"name": "a", "state": "submitted"})
    assert kind_of(load_job(folder.path / "config.yml")).name == "nearest"
    assert run_task([folder.path]) == {}
    whole = read_steps(folder)
    assert read_yaml(folder.metadata)["state"] == "done"
    assert read_yaml(folder.metadata)["name"] == "a"
    assert len(whole) == 3


@pytest.mark.usefixtures("nearest")
def test_jobs_of_a_kind_without_a_share_key_are_never_packed(write):
    job = load_job(write("config.yml", JOB))
    runs = [SimpleNamespace(name=name, job=job, starts_from="") for name in ("a", "b")]
    assert packed(runs, 8) == [runs[:1], runs[1:]]


@pytest.mark.usefixtures("nearest")
def test_a_job_of_two_kinds_is_refused(write):
    KINDS.register("other")(type("Other", (KINDS["nearest"],), {"name": "other", "key": "train_config"}))
    with pytest.raises(UserError, match=r"keys `nearest:` and `train_config:`") as error:
        marked_kind(load_yaml(write("config.yml", JOB)))
    assert str(error.value).startswith(str(Path(error.value.location or "")))


class Anchors(Schema):
    anchors: list[PartField]


class SupernetJob(JobSettings):
    supernet: Anchors


def test_paths_in_the_networks_of_another_kind_start_from_the_config(write):
    anchors = "{anchors: [{Net: {model_name: smallnet, ckp_path: weights.pt}}]}"
    config = write("config.yml", f"supernet: {anchors}\ntrain_config: {{dataset: digits}}\n")
    (anchor,) = read_settings(SupernetJob, load_yaml(config)).supernet.anchors
    assert anchor.ckp_path == str(config.parent / "weights.pt")


def test_a_job_without_the_key_of_another_kind_is_one_of_train(write, small_job):
    job = load_job(write("config.yml", small_job))
    kind = kind_of(job)
    assert kind.name == "train"
    assert kind.data_sets(job) == ["digits"]
    assert [part.kind for part in kind.networks(job) if part] == ["Assembly"]
    assert kind.check(job, lambda _, find_out: find_out()).trainable > 0
