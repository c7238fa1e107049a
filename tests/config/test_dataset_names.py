"""Every spelling of a data set's name is one data set to all that comes behind the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stitching.config.dataset_names import DATASET_ALIASES, canonical_dataset
from stitching.config.errors import UserError
from stitching.data.datasets import DATASETS, dataset
from stitching.runs.identity import identity
from stitching.runs.kinds import load_job

ROOT = Path(__file__).parents[2]


def test_each_spelling_is_of_one_registered_data_set() -> None:
    ours = {name for name, info in DATASETS.items() if info.opener.__module__.startswith("stitching.")}
    assert set(DATASET_ALIASES) == ours
    spellings = [(spelling, name) for name in ours for spelling in (name, *DATASET_ALIASES[name])]
    assert all(canonical_dataset(spelling) == name for spelling, name in spellings)


def test_a_job_is_the_same_in_every_spelling(write, small_job: str) -> None:
    jobs = [
        load_job(write("config.yml", small_job.replace("dataset: digits", f"dataset: {name}")))
        for name in ("fashion_mnist", "FashionMNIST", "fashion-mnist", "fmnist")
    ]
    assert {job.train_config.dataset for job in jobs} == {"fashion_mnist"}
    assert len({identity(job) for job in jobs}) == 1


def test_one_data_set_in_two_spellings_is_one_task_too_many(write, small_job: str) -> None:
    tasks = "tasks: [{dataset: pets}, {dataset: oxford_iiit_pet}]"
    with pytest.raises(UserError, match="two tasks have the same data set"):
        load_job(write("config.yml", small_job.replace("dataset: digits", tasks)))


def test_a_spelling_of_ours_is_taken() -> None:
    with pytest.raises(UserError, match="'Cars' is another spelling of 'stanford_cars'"):
        dataset("Cars", num_classes=2)(lambda data_path, train: [])  # type: ignore[arg-type,return-value]


def test_the_page_lists_every_data_set_and_spelling() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+|\w+) \| (\d+) \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    listed = {
        name: (classes, int(size), tuple(re.findall(r"`([^`]+)`", others))) for name, classes, size, others in rows
    }
    expected = {
        name: (str(DATASETS[name].num_classes or "counted"), DATASETS[name].image_size, others)
        for name, others in DATASET_ALIASES.items()
    }
    assert listed == expected
