"""How long 2,000 runs take to load, the first time and again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stitching import load_results
from stitching.runs.folder import write_yaml
from stitching.runs.step_log import ACCURACY, StepLog

pytestmark = pytest.mark.slow

RUNS, EPOCHS, STEPS = 2000, 10, 100  # steps of an epoch


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    log = StepLog()
    for step in range(1, EPOCHS * STEPS + 1):
        log.add({"Step": step, "Epoch": 1 + (step - 1) // STEPS, "Loss": 2.0, "LR": 1e-3, "Accuracy": 0.1,
                 "Time/Data": 0.1, "Time/Step": 0.2, "Time/Img Per Sec": 300.0, "Proc Mem": 1.0})  # fmt: skip
        if step % STEPS == 0:
            log.extend_last({"Overall/Train Loss": 2.0, "Overall/Train Accuracy": 0.1, "Overall/Test Loss": 2.0,
                             ACCURACY: 0.2, "Time/Per Epoch": 1.5})  # fmt: skip
    first = tmp_path / "first.pkl"
    log.save(first)
    adapter = {"SimpleAdapter": {f"setting_{n}": n for n in range(14)}}
    subnet = {"Subnet": {f"setting_{n}": "some words" for n in range(12)}}
    for number in range(RUNS):
        run = tmp_path / "runs" / f"run-{number}"
        run.mkdir(parents=True)
        for ending in (".pkl", ".parquet"):
            (run / f"result{ending}").write_bytes(first.with_suffix(ending).read_bytes())
        config = {**{f"key_{n}": n for n in range(20)},
                  "train_config": {"dataset": "digits", "optimizer_args": {"lr": 0.1 * (number % 2)}},
                  "model": {"Assembly": {"parts": [subnet, adapter, subnet]}}}  # fmt: skip
        write_yaml(run / "metadata.yml", {
            "name": run.name, "source": "a/b", "destination": "a/c", "first_deleted_block": 1,
            "last_deleted_block": 2, "adapter": "affine", "seed": number, "state": "done", "config": config,
            "versions": {f"package_{n}": "1.2.3" for n in range(6)},
        })  # fmt: skip
    time.sleep(2.1)  # younger files may still change unseen, and are not kept
    return tmp_path / "runs"


def test_loading(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        results = load_results(runs)
        seconds.append(time.perf_counter() - began)
        assert len(results) == RUNS * EPOCHS
    with capsys.disabled():
        print(f"\n  {seconds[0]:6.1f} s  load_results of {RUNS} runs\n  {seconds[1]:6.1f} s  again")
    assert seconds[0] < 20
    assert seconds[1] < 2
