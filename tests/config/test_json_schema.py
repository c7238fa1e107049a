"""The JSON schemas that editors read, and the configuration reference that is made from them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from stitching.cli import app
from stitching.cli.config_schemas import Document, schema_of
from stitching.config.yaml import load_yaml

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "experiments").glob("*/*/config.yml"))
SWEEPS = sorted(path for path in (ROOT / "across-scales").glob("*.yml") if "models" in load_yaml(path).data)


@pytest.fixture(scope="module")
def validators() -> dict[Document, Any]:
    for document in Document:
        Draft202012Validator.check_schema(schema_of(document))
    return {document: Draft202012Validator(schema_of(document)) for document in Document}


def test_shipped_configs_are_valid(validators):
    assert JOBS
    assert len(SWEEPS) > 8
    clusters = [ROOT / "sbatch" / "clusters.yml"]
    for document, paths in ((Document.JOB, JOBS), (Document.SWEEP, SWEEPS), (Document.CLUSTERS, clusters)):
        for path in paths:
            assert [error.message for error in validators[document].iter_errors(load_yaml(path).data)] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model:", "modle:"),
        ("- Subnet: {", "- SubNet: {"),
        ("kernel_size: 1", "kernelsize: 1"),
        ("kernel_size: 1", "kernel_size: one"),
        ("num_conv: 1", "num_conv: 1, in_format: imag"),
        ("num_conv: 1", "num_conv: 1, init: least_sqares"),
        ("epochs: 2", "epoch: 2"),
        ("epochs: 2", "epochs: 2.5"),
        ("batch_size: 256", "batch_size: 0"),
        ("dataset: digits", "dataset: digit"),
        ("image_size: 8", "imagesize: 8"),
        ("epochs: 2", "epochs: 2\n  loss_fn: cross_entrpy"),
        ("epochs: 2", "epochs: 2\n  optimizer: Adamw"),
        ("epochs: 2", "epochs: 2\n  lr_scheduler: CosineAnealingLR"),
        ("epochs: 2", "epochs: 2\n  lr_scheduler_args: {monitor: Test Loss}"),
        ("train_config:", "metrics: [{metric_fn: acuracy}]\ntrain_config:"),
        ("train_config:", "precision: fp16\ntrain_config:"),
    ],
)
def test_typos_in_jobs_are_invalid(validators, write, small_job, old, new):
    validator = validators[Document.JOB]
    assert validator.is_valid(load_yaml(write("right.yml", small_job)).data)
    assert old in small_job
    assert not validator.is_valid(load_yaml(write("wrong.yml", small_job.replace(old, new))).data)


@pytest.mark.parametrize(
    "change", [{"pairs": "slef"}, {"stitchers": ["finetun"]}, {"gaps": {"max_droped": 2}}, {"seeds": 3}, {"modles": []}]
)
def test_typos_in_sweeps_are_invalid(validators, change):
    sweep = load_yaml(SWEEPS[0]).data
    assert not validators[Document.SWEEP].is_valid(sweep | change)


def test_names_of_plugins_are_in_the_schema(write):
    path = write(
        "mine.py",
        "from stitching.nets.parts import PARTS, ChannelsPart\n"
        "@PARTS.register('PartInSchema')\nclass Mine(ChannelsPart):\n    '''Of my own.'''\n    strength: int = 1\n    'How\\n    strong.'\n"
        "    def build(self, input_format, options): ...\n",
    )
    result = CliRunner().invoke(app, ["schema", "job", "--plugin", str(path)], catch_exceptions=False)
    part = json.loads(result.stdout)["$defs"]["part.PartInSchema"]
    assert part["description"] == "Of my own."
    assert part["properties"]["strength"]["type"] == "integer"
    assert part["properties"]["strength"]["description"] == "How strong."


def test_the_reference_is_current():
    command = [
        sys.executable,
        "-m",
        "stitching",
        "schema",
        "--markdown",
    ]  # other tests have registered parts in this process
    page = forked.run(command, check=True).stdout
    assert page == (ROOT / "docs" / "configuration.md").read_text(), (
        "run `stitching schema --markdown > docs/configuration.md`"
    )
    assert not [row for row in page.splitlines() if row.endswith("|  |")], "keys without a description"
