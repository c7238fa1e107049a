"""Promise 4: a run trained in a pack leaves the same dataframe as alone."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import pytest
import torch
from small_jobs import same, stitched, trained
from yaml_files import read_yaml

from stitching.runs.folder import RunFolder, write_yaml
from stitching.training.run import Run
from stitching.training.shared_prefixes import SharedPrefixes

BLOCK = {"VisionTransformerBlock": {"num_heads": 2, "dropout": 0.3, "in_format": ["token", [12, 4]]}}


def _jobs() -> list[dict]:
    return [
        stitched("layer1", "layer3", {"SimpleAdapter": {"num_conv": 1, "out_channels": 8}}),
        stitched("layer3", "layer4", BLOCK),  # dropout: its randomness must not depend on the neighbours
        stitched("layer2", "layer3", train_config={"optimizer_args": {"lr": 0.1}, "epochs": 3}),
        stitched("layer2", "layer3", unfrozen=True),  # shares no front
        stitched("layer3", "layer4", frozen_norm="batch"),
    ]


def test_a_pack_leaves_what_each_run_leaves_alone(tmp_path):
    jobs = _jobs()
    runs = trained(jobs, tmp_path / "pack")
    assert [run.failure for run in runs] == [None] * len(jobs)
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")


def test_one_pass_through_a_source_serves_all_depths(tmp_path, monkeypatch):
    passes: list[int] = []
    forward = SharedPrefixes.forward

    def counted(self, images, fronts):
        passes.append(len(fronts))
        return forward(self, images, fronts)

    monkeypatch.setattr(SharedPrefixes, "forward", counted)
    runs = trained(_jobs()[:3], tmp_path)
    steps, tests = 6, 2
    assert passes[: steps + tests] == [3] * (steps + tests)
    fronts = {run.front.end.name for run in runs}
    assert len(fronts) == 3
    assert all(run.learner.first_piece == 1 for run in runs)


def test_a_run_that_raises_at_the_end_of_an_epoch_does_not_either(tmp_path, monkeypatch):
    close = Run.end_epoch

    def failing(self, test):
        if self.name == "run-1":
            raise ValueError("no more of it")
        close(self, test)

    monkeypatch.setattr(Run, "end_epoch", failing)
    jobs = _jobs()[:3]
    runs = trained(jobs, tmp_path / "pack")
    assert [run.failure for run in runs] == [None, "ValueError: no more of it", None]
    assert [run.folder.read_metadata()["state"] for run in runs] == ["done", "failed", "done"]


def test_a_run_that_raises_does_not_stop_its_neighbours(tmp_path, monkeypatch):
    step = Run.train_step

    def failing(self, *args, **kwargs):
        if self.name == "run-1" and self.step == 4:
            raise RuntimeError("CUDA out of memory")
        step(self, *args, **kwargs)

    monkeypatch.setattr(Run, "train_step", failing)
    jobs = _jobs()[:3]
    runs = trained(jobs, tmp_path / "pack")
    assert [run.failure for run in runs] == [None, "RuntimeError: CUDA out of memory", None]
    assert runs[1].folder.read_metadata()["state"] == "failed"
    assert runs[1].folder.read_metadata()["failure"] == "RuntimeError: CUDA out of memory"
    monkeypatch.undo()
    trained(jobs[2], tmp_path / "alone")
    same(tmp_path / "pack" / "run-2", tmp_path / "alone" / "run-0")


def test_nothing_modifies_what_runs_share(tmp_path):
    runs = trained(_jobs()[:3], tmp_path)
    shared_prefixes = SharedPrefixes(run.front for run in runs if run.front)
    features = shared_prefixes(torch.randn(4, 1, 16, 16), [run.front for run in runs])
    for run in runs:
        given = features.of(run.front)
        before = given.clone()
        run.network.train()(given, run.learner.first_piece)
        assert torch.equal(given, before)
        assert given._version == 0


# ------------------------------------------------------------------------ a folder that is removed in the midst


@pytest.mark.parametrize("gone", ["everything", "metadata.yml", "anew"])
def test_a_run_whose_folder_is_removed_fails_with_that_reason_and_alone(tmp_path, gone):
    job = stitched("layer2", "layer3", checkpoint_minutes=0, train_config={"epochs": 1})
    folder, other = tmp_path / "run-0", tmp_path / "run-1"
    folder.mkdir()
    write_yaml(folder / "metadata.yml", {"name": "of the first", "state": "submitted"})

    def remove(done: int, total: int, words: str) -> None:
        if done != 5:
            return
        if gone == "metadata.yml":
            (folder / gone).unlink()
        else:
            shutil.rmtree(folder)
        if gone == "anew":
            held.enter_context(RunFolder(folder).locked())
            write_yaml(folder / "metadata.yml", {"name": "another", "state": "running"})

    with ExitStack() as held:
        first, second = trained([job, job], tmp_path, on_progress=remove)
    assert "was removed while the run trained" in first.failure
    assert second.failure is None
    assert read_yaml(other / "metadata.yml")["state"] == "done"
    if gone == "everything":
        assert not folder.exists()
    else:
        metadata = read_yaml(folder / "metadata.yml")
        name, state = ("another", "running") if gone == "anew" else ("of the first", "failed")
        assert (metadata["name"], metadata["state"]) == (name, state)
