"""Pieces of models that several tensors go into or come out of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_jobs import frame_of, trained

from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, located
from stitching.cutting.formats import Format
from stitching.nets.build import BuildOptions, build_network
from stitching.nets.parts import PARTS
from stitching.runs.kinds import read_job
from stitching.training.job_checks import at_network, images_of, meta_network
from stitching.training.shared_prefixes import front_of

MODEL = '''
from torch import nn

class TwoPaths(nn.Module):
    """Two values cross from each block to the next, of which the second has the second half of the size."""

    def __init__(self, classes):
        super().__init__()
        self.stem, self.small = nn.Conv2d(1, 4, 1), nn.MaxPool2d(2)
        self.first = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(3))
        self.second = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)) for _ in range(3))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.stem(x)
        y = self.small(x)
        for first, second in zip(self.first, self.second):
            x, y = first(x), second(y)
        return self.head(nn.functional.pad(x.mean((2, 3)), (0, 4)) + nn.functional.pad(y.mean((2, 3)), (4, 0)))

def make():
    return TwoPaths(10)
'''
IMAGES = Format("img", 1, (8, 8))
HERE = {"block_output": "second.0", "out_format": "tuple"}
ON = {"block_input": "first.1", "in_format": "tuple"}
LIST = {"block_input": ["first.0", "second.0"]}
ADAPTER = {"SimpleAdapter": {"num_conv": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tuples") / "two_paths.py"
    path.write_text(MODEL)
    return f"{path}:make"


def row(model: str, parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts as configs have them; one without a class name is a piece of the model."""
    named = []
    for part in parts:
        ((name, arguments),) = part.items() if next(iter(part), "")[:1].isupper() else (("Subnet", part),)
        inner = {"parts": row(model, arguments["parts"])} if "parts" in arguments else {}
        named.append({name: ({"module": model} if name == "Subnet" else {}) | arguments | inner})
    return named


def parts_of(model: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"Assembly": {"parts": row(model, parts)}}


def network(model: str, *parts: dict[str, Any], images: Format = IMAGES) -> Any:
    return build_network(PARTS.validated(parts_of(model, *parts)), images, BuildOptions(seed=1))


@pytest.mark.parametrize(
    "parts",
    [
        [HERE, ON],
        [HERE, ON | {"block_output": "second.1", "out_format": "tuple"}, {"block_input": "first.2", "in_format": "tuple"}],
        [HERE, LIST],
        [HERE, LIST | {"in_format": "tuple"}],
        [{"Assembly": {"parts": [HERE]}}, {"Assembly": {"parts": [ON]}}],
        [HERE | {"in_format": ["img", [1, 16, 16]]}, ON],
    ],
)  # fmt: skip
def test_pieces_that_pass_a_tuple_on_are_the_whole_model_bit_for_bit(model: str, parts: list[Any]) -> None:
    images = IMAGES if "in_format" not in parts[0] else Format("img", 1, (16, 16))
    joined, whole = network(model, *parts, images=images), network(model, {})
    pixels = torch.randn(3, *images.shape(1)[1:])
    for training in (False, True):
        assert torch.equal(joined.train(training)(pixels), whole.train(training)(pixels))


def test_the_list_of_a_parallel_part_goes_into_a_subnet_of_several_inputs(model: str) -> None:
    wide, narrow = ({"SimpleAdapter": {"num_conv": 1, "out_channels": 4, "stride": stride}} for stride in (1, 2))
    joined = network(
        model, {"ParallelPart": {"parts": [narrow, wide]}}, {"block_input": ["second.0", "first.0"]}
    ).eval()
    pixels = torch.randn(2, 1, 8, 8)
    tensors = joined.pieces[0](pixels)
    back = network(model, HERE, LIST).eval().pieces[1]
    assert torch.equal(joined(pixels), back(tensors[::-1]))


def test_a_pack_shares_no_front_that_gives_a_tuple(model: str) -> None:
    """What is shared is one tensor, and several crossings of a model have the same place in its list of cut points."""
    stem = {"block_output": "stem", "frozen": True}
    assert front_of(network(model, stem, {"block_input": "small"}), 1) is not None
    assert front_of(network(model, HERE | {"frozen": True}, ON), 1) is None


def job(model: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """Two training steps of four digits."""
    train_config = {
        "dataset": "digits", "data_preprocessing": {"image_size": 8}, "epochs": 1, "max_batches": 2, "batch_size": 4,
    }  # fmt: skip
    return {"model": parts_of(model, *parts), "train_config": train_config}


def test_a_job_of_such_pieces_trains_what_is_not_frozen(model: str, tmp_path: Path) -> None:
    jobs = [job(model, HERE | {"frozen": frozen}, ON) for frozen in (True, False)]
    runs = trained([job(model, {}), *jobs], tmp_path)
    assert [run.failure for run in runs] == [None] * 3
    whole, frozen, free = (frame_of(run.folder.path) for run in runs)
    loss = "Loss"  # of each step
    assert whole[loss].notna().sum() == 2
    assert free[loss].equals(whole[loss])
    assert not frozen[loss].equals(whole[loss])


def build_from(path: Path) -> None:
    """Build the network of a config for its shapes, as plans do."""
    document = load_yaml(path)
    with located(document):
        job = read_job(document)
        with at_network(job):
            meta_network(job, images_of(job))


@pytest.mark.parametrize(
    ("parts", "line", "message"),
    [
        ([HERE, ADAPTER, ON], "SimpleAdapter", r"a tuple of 2 tensors \(4x8x8, 4x4x4\) cannot become img"),
        ([HERE, {"ClassifierHead": {}}], "ClassifierHead", "cannot become|takes one tensor"),
        ([HERE], "Assembly", "the network ends with a tuple of 2 tensors"),
        ([ADAPTER, ON], "in_format: tuple", "img 1x8x8 cannot become tuple"),
        ([HERE, {"SimpleAdapter": {"num_conv": 1, "in_format": "tuple"}}], "in_format: tuple", "works on one tensor"),
        ([HERE, {"block_input": "first.1"}], "block_input: first.1", "`in_format: tuple` here"),
        ([{"block_output": "second.0"}], "block_output: second.0", "`out_format: tuple` here"),
        ([{"block_output": "stem", "out_format": "tuple"}], "out_format: tuple", "the value of 'stem' alone"),
        ([HERE, ON | {"block_input": "small"}], "in_format: tuple", "alone crosses there"),
        ([HERE, {"block_input": ["first.0", "secnd.0"]}], "- secnd.0", "did you mean 'second.0'"),
        ([HERE, {"block_input": ["first.0", "first.2"]}], "block_input:", "needs pad_1 as well"),
        ([HERE, {"block_input": ["first.0", "stem", "second.0"]}], "block_input:", "not depend on stem"),
        ([HERE, {"block_input": ["second.0", "second.0.1"]}], "- second.0.1", "once more"),
        ([HERE, {"block_input": ["second.0", "first.0"]}], "block_input", r"takes 2 tensors \(4x4x4, 4x8x8\)"),
        ([HERE, {"block_input": ["first.0"]}], "block_input:", "at least 2 items"),
        ([{"ParallelPart": {"parts": [ADAPTER, ADAPTER]}}, {"ClassifierHead": {}}], "ClassifierHead", "returns a list"),
    ],
)  # fmt: skip
def test_what_does_not_fit_beside_a_tuple_is_told_with_its_line(
    model: str, tmp_path: Path, parts: list[Any], line: str, message: str
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(job(model, *parts), sort_keys=False))
    with pytest.raises(UserError, match=message) as error:
        build_from(path)
    number = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if line in text)
    assert f"config.yml:{number}:" in str(error.value)
