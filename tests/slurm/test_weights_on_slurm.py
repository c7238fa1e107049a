"""Published weights on a real Slurm: fetched by `submit`, and the jobs need no network."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml
from weights_server import SMALL, as_safetensors, repository_of, serving, use_caches, weights_of

from stitching.launch.schedulers.slurm_queue import held_tasks

pytestmark = pytest.mark.usefixtures("slurm")

SWEEP = {
    "project": "tests",
    "models": [SMALL],
    "gaps": [{"blocks_to_drop": [1, 1]}],
    "stitchers": ["affine"],
    "train_config": {
        "dataset": "digits", "data_preprocessing": {"image_size": 32, "channels": 3}, "max_steps": 2, "epochs": 1,
        "optimizer_args": {"lr": 0.01},
    },
}  # fmt: skip


def write_project(folder: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sweep of two runs (one tests the whole network), and a cluster `test`; returns its file."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # jobs inherit it
    (folder / "experiments").mkdir()
    (folder / "sbatch").mkdir()
    (folder / "sbatch" / "clusters.yml").write_text(
        f"test: {{partition: gpu, cpus: 1, memory_gb: 1, minutes: 10, {profile}}}"
    )
    path = folder / "small.yml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


def runs_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("experiments/tests/*/*/metadata.yml"))


def wait_for_the_queue() -> None:
    deadline = time.monotonic() + 120
    while held_tasks():
        assert time.monotonic() < deadline, subprocess.run(["squeue"], capture_output=True, text=True).stdout
        time.sleep(0.3)


def test_jobs_start_from_weights_that_submit_fetched(cli, tmp_path, monkeypatch, forked_on_slurm) -> None:
    path = write_project(tmp_path, "gpus: 1", monkeypatch)
    submit = ("submit", path, "--cluster", "test")
    with serving() as server:
        use_caches(tmp_path / "caches", monkeypatch, server.url)
        outcome = cli(*submit)
        assert outcome.code == 2
        assert f"error: cannot get pretrained weights:\n  {SMALL}: " in outcome.err
        assert not runs_of(tmp_path)
        server.put_on_hub(repository_of(SMALL), "model.safetensors", as_safetensors(weights_of(SMALL)))
        server.asked.clear()
        outcome = cli(*submit, "--dry-run")
        assert outcome.code == 0, outcome.err
        assert "export HF_HUB_OFFLINE=1" in outcome.out
        assert not server.asked
        outcome = cli(*submit)
        assert outcome.code == 0, outcome.err
        asked = len(server.asked)
        assert len(server.downloads) == 1
        wait_for_the_queue()
        assert len(server.asked) == asked, "the job asked the hub"
    runs = runs_of(tmp_path)
    assert len(runs) == 2
    for run in runs:
        assert yaml.safe_load(run.read_text())["state"] == "done", (run.parent / "log.txt").read_text()


def test_a_node_that_does_not_see_the_cache_says_so(cli, tmp_path, monkeypatch, forked_on_slurm) -> None:
    path = write_project(tmp_path, f"setup: [export HF_HOME={tmp_path}/node]", monkeypatch)
    with serving() as server:
        use_caches(tmp_path / "caches", monkeypatch, server.url)
        server.put_on_hub(repository_of(SMALL), "model.safetensors", as_safetensors(weights_of(SMALL)))
        assert cli("submit", path, "--cluster", "test").code == 0
        wait_for_the_queue()
    runs = runs_of(tmp_path)
    assert len(runs) == 2
    for run in runs:
        known = yaml.safe_load(run.read_text())
        assert known["state"] == "failed"
        assert f"not in {tmp_path}/node/hub, and HF_HUB_OFFLINE=1 forbids downloads" in known["failure"]
