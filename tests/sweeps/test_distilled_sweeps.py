"""A sweep whose stitched networks learn from another network: refused in the plan where it cannot be, else to its results."""

from __future__ import annotations

import pytest
from small_sweeps import RESNET, SMALLNET, VIT, gaps, go, plan_of, write_sweep
from yaml_files import read_yaml

from stitching import last_epoch, load_results, stitched
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, located

PAIR = {  # the destination as a whole takes images of 32 pixels, the stitched network those of 16
    "models": [SMALLNET, VIT], "pairs": [["local/smallnet", "timm/vit_tiny_patch16_224"]],
    "train_config": {"data_preprocessing": {"image_size": 16}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "place", "words"),
    [
        (
            {**PAIR, "objective": {"distill": {"weight": 0.7}}},
            "objective.distill: no teacher is named, and timm/vit_tiny_patch16_224, the destination, cannot be it",
            "it takes images of 1x32x32, and these are of 1x16x16",
        ),
        (
            {**PAIR, "grid": {"objective": ["labels", "distill"]}},
            "grid.objective.1: 'distill': no teacher is named",
            "`distill: {teacher: NAME}`",
        ),
        (
            {"models": [SMALLNET], "objective": {"distill": {"teacher": {"Net": {**RESNET, "num_classes": 7}}}}},
            "objective.distill.teacher: it has 7 classes, the network that learns from it 10",
            "a network for the same classes",
        ),
    ],
)
def test_a_teacher_that_cannot_be_is_told_in_the_plan(tmp_path, keys, place, words):
    path = write_sweep(tmp_path / "small.yml", **keys)
    key = place.split(".")[0] + ":"
    line = 1 + next(i for i, line in enumerate(path.read_text().splitlines()) if line.startswith(key))
    document = load_yaml(path)
    with pytest.raises(UserError) as caught, located(document):
        plan_of(path)
    told = str(caught.value)
    assert place in told
    assert words in told
    file, found, _ = told[told.index(str(path)) :].split(":", 2)
    assert (file, int(found) - line in range(5)) == (str(path), True)


def test_a_sweep_of_the_same_networks_that_learns_from_labels_can_be(tmp_path):
    assert any(run.stitch.control is None for run in plan_of(write_sweep(tmp_path / "small.yml", **PAIR)).runs)


def test_a_sweep_that_learns_from_its_destination_goes_to_its_results(cli, tmp_path):
    path = write_sweep(
        tmp_path / "small.yml", models=[SMALLNET], gaps=gaps([1, 1]), grid={"objective": ["labels", "distill"]}
    )
    plan, submission = go(path)
    assert not submission.failures
    objectives = {run.name: read_yaml(plan.folder / run.name / "config.yml").get("objective") for run in plan.runs}
    assert sorted(map(str, objectives.values())) == sorted(
        ["None", "None", "{'distill': {'kind': 'soft', 'weight': 0.5}}"]  # the whole network is only tested
    )
    results = stitched(last_epoch(load_results(plan.folder)))
    assert set(results["objective"]) == {"labels", "distill"}
    assert results["Loss"].nunique() == 2
    rows = [line for line in cli("results", plan.folder).out.splitlines() if "1-1" in line]
    assert sorted(row.count("distill") for row in rows) == [0, 1]
