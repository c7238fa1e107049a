"""The published weights of a sweep: fetched by whoever submits, before anything is written; planning fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_sweeps import SMALLNET, cluster_of, gaps, go, plan_of, states, write_sweep
from user_errors import files_below
from weights_server import (
    SMALL,
    WeightsServer,
    as_safetensors,
    is_cached,
    repository_of,
    serving,
    use_caches,
    weights_of,
)

from stitching.config.errors import UserError
from stitching.launch import orders, prefetch_weights
from stitching.models.spec import ModelSpec


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    with serving() as server:
        use_caches(tmp_path / "caches", monkeypatch, server.url)
        yield server


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs stitched of a model with published weights, and one that tests it whole."""
    images = {"data_preprocessing": {"image_size": 32, "channels": 3}}
    return write_sweep(tmp_path / "small.yml", models=[SMALL], gaps=gaps([1, 1], [1, 2]), train_config=images)


def test_weights_are_fetched_once_and_before_the_runs(server, sweep, monkeypatch) -> None:
    server.put_on_hub(repository_of(SMALL), "model.safetensors", as_safetensors(weights_of(SMALL)))

    def cluster(tasks, **_) -> dict[str, str]:
        assert is_cached(ModelSpec.parse(SMALL, pretrained=True))
        return {run.path.name: "not today" for task in tasks for run in task}

    plan = plan_of(sweep)
    assert not server.asked, "planning is pure"
    assert len(plan.runs) == 3
    go(sweep, cluster_of(cluster))
    assert len(server.downloads) == 1
    asked = len(server.asked)
    go(sweep, cluster_of(cluster))
    assert len(server.asked) == asked


def test_without_the_weights_nothing_is_submitted(server, sweep, tmp_path) -> None:
    before = files_below(tmp_path)
    plan = plan_of(sweep)
    with pytest.raises(UserError, match=f"cannot get pretrained weights:\n  {SMALL}: .*404"):
        go(sweep)
    assert states(plan) == {"missing"}
    assert {path for path in files_below(tmp_path) if "caches" not in path.parts} == set(before)


def test_what_is_done_needs_no_weights(server, sweep, monkeypatch) -> None:
    monkeypatch.setattr(orders, "state_on_disk", lambda _: ("done", {}))
    go(sweep)
    assert not server.asked


def test_the_models_of_runs_are_found_however_deep_they_lie(tmp_path) -> None:
    path = write_sweep(tmp_path / "small.yml", models=[SMALLNET], gaps=gaps([1, 1]))
    run, tested = plan_of(path).runs
    assert prefetch_weights.weights_of([run, tested]) == [], "our own models have none"
    part = {"model_name": SMALL, "block_output": "layer1"}
    parts = [
        {"Assembly": {"parts": [{"Subnet": part}, {"Subnet": {**part, "pretrained": False}}]}},
        {"ParallelPart": {"parts": [{"Net": {"model_name": "torchvision/squeezenet1_1"}}, {"Subnet": part}]}},
        {"Net": {"model_name": "torchvision/resnet18", "ckp_path": "weights.pt"}},
        {"Net": {"model_name": "torchvision/resnet50", "weights": "IMAGENET1K_V1"}},
        {"Net": {"model_name": "torchvision/resnet50"}},
    ]
    job = type(run.job).model_validate(
        {**run.job.model_dump(exclude={"model"}), "model": {"Assembly": {"parts": parts}}}
    )
    found = prefetch_weights.weights_of([type(run)(name=run.name, stitch=run.stitch, seed=run.seed, job=job)] * 2)
    assert [(spec.title, spec.weights) for spec in found] == [
        (SMALL, None),
        ("torchvision/squeezenet1_1", "IMAGENET1K_V1"),
        ("torchvision/resnet50", "IMAGENET1K_V1"),
        ("torchvision/resnet50", "IMAGENET1K_V2"),
    ]
    assert all(spec.pretrained for spec in found)


def test_a_sweep_names_weights_of_torchvision(tmp_path) -> None:
    model = {"model_name": "torchvision/resnet18", "weights": "IMAGENET1K_V1"}
    images = {"dataset": "imagenet", "data_preprocessing": {"image_size": 64}}
    keys = {"gaps": gaps([1, 2]), "controls": ["random_source"], "train_config": images}
    runs = plan_of(write_sweep(tmp_path / "named.yml", models=[model], **keys)).runs
    default = plan_of(write_sweep(tmp_path / "default.yml", models=["torchvision/resnet18"], **keys)).runs
    assert [run.identity for run in runs] == [run.identity for run in default]
    assert {spec.weights for run in runs for spec in prefetch_weights.weights_of([run])} == {"IMAGENET1K_V1"}
    (random,) = [run for run in runs if run.stitch.control == "random_source"]
    front = random.job.to_yaml()["model"]["Assembly"]["parts"][0]["Subnet"]
    assert "weights" not in front
    assert front["pretrained"] is False
