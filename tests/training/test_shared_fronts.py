"""A frozen front that is computed once for several runs gives what the network itself would compute."""

from __future__ import annotations

import pytest
import torch
from small_jobs import NARROW_RESNET, WHOLE_EPOCHS, frame_of, job_of, same, stitched, trained

import stitching.training.run_builder as run_builder
from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.models.weights import load_weights
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import RunOptions, RunRequest
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.run_builder import build_network_of
from stitching.training.session import train

HEAD = {"ClassifierHead": {}}
FC = {"SimpleAdapter": {"num_fc": 1, "out_channels": 8}}


def piece(start: str | None, end: str, **more) -> dict:
    names = {"block_input": start, "block_output": end}
    return {"Subnet": {**NARROW_RESNET, **{k: v for k, v in names.items() if v}, "frozen": True, **more}}


def row(*parts: dict, **settings) -> dict:
    job = stitched("layer2", "layer3", **settings)
    job["model"]["Assembly"]["parts"] = list(parts)
    return job


ROWS = {
    "one piece": (1, row(piece(None, "layer2"), HEAD)),
    "several in a row": (3, row(piece(None, "layer1"), piece("layer2", "layer2"), piece("layer3", "layer3"), HEAD)),
    "a conversion after the first": (0, row(piece(None, "layer1", out_format=["img", [8, 2, 2]]), HEAD)),
    "a conversion after the second": (
        1, row(piece(None, "layer1"), piece("layer2", "layer2", out_format=["img", [8, 1, 1]]), HEAD),
    ),
    "another layout at the end": (0, row(piece(None, "layer2", out_format="token"), FC, HEAD)),
    "a second one that is trained": (1, row(piece(None, "layer1"), piece("layer2", "layer2", frozen=False), HEAD)),
    "a piece left out": (1, row(piece(None, "layer1"), piece("layer3", "layer3", in_format=["img", [8, 4, 4]]), HEAD)),
}  # fmt: skip


@pytest.mark.parametrize(("pieces", "job"), ROWS.values(), ids=ROWS)
def test_with_and_without_a_shared_front(tmp_path, monkeypatch, pieces, job):
    (shared,) = trained(job, tmp_path / "shared")
    assert shared.learner.first_piece == pieces
    monkeypatch.setattr(run_builder, "front_of", lambda network, seed: None)
    (own,) = trained(job, tmp_path / "own")
    assert own.front is None
    same(shared.folder.path, own.folder.path)


@pytest.mark.parametrize("strict", [True, False])
def test_loaded_weights_are_those_that_are_tested(tmp_path, strict):
    job = row(piece(None, "layer4", frozen=False), HEAD, save_checkpoints=True, train_config=WHOLE_EPOCHS)
    (base,) = trained(job, tmp_path / "base")
    reached = base.final["Overall/Test Accuracy"]
    loading = {"load_from": str(base.folder.checkpoint), "strict_load": strict, "test_only": True}
    (frozen,) = trained(row(piece(None, "layer4"), HEAD, **loading), tmp_path / "frozen")
    assert frozen.final["Overall/Test Accuracy"] == reached
    assert reached > 0.2  # more than chance: what was loaded matters
    assert "loaded" in frozen.folder.log.read_text()


def test_a_new_head_learns_on_the_loaded_trunk(tmp_path):
    net = {"model": {"Net": NARROW_RESNET}, "train_config": stitched("layer1", "layer2")["train_config"]}
    (base,) = trained(net | {"save_checkpoints": True}, tmp_path / "base")
    job = row(piece(None, "layer4"), HEAD, load_from=str(base.folder.checkpoint), strict_load=False)
    (run,) = trained(job | {"save_checkpoints": True}, tmp_path / "new-head")
    weights = torch.load(run.folder.checkpoint, weights_only=True)["model"]
    shared_prefixes = torch.load(base.folder.checkpoint, weights_only=True)["model"]
    key = "layer1.0.conv1.weight"
    (there,) = (name for name in weights if name.endswith(key))
    (here,) = (name for name in shared_prefixes if name.endswith(key))
    assert torch.equal(weights[there], shared_prefixes[here])
    # What was tested is the network that was saved: the same again from its own checkpoint.
    (again,) = trained(
        row(piece(None, "layer4"), HEAD, load_from=str(run.folder.checkpoint), test_only=True), tmp_path / "again"
    )
    assert again.final["Overall/Test Accuracy"] == run.final["Overall/Test Accuracy"]


def test_what_is_not_loaded_is_said(tmp_path):
    data = row(piece(None, "layer1"), HEAD)
    job = Job.model_validate(data)
    from stitching.training.job_data import TaskData

    network = build_network_of(job, TaskData(job))
    state = {key: value for key, value in network.state_dict().items() if "conv1" in key}
    torch.save({**state, "nothing.here": torch.zeros(1)}, tmp_path / "some.pt")
    note = load_weights(network, tmp_path / "some.pt", "the network", strict=False)
    assert note.startswith(f"loaded {len(state)} of {len(network.state_dict())} tensors")
    assert "1 unknown to the model: nothing.here" in note


def test_frames_differ_where_weights_do(tmp_path):
    """The comparison above can fail: another seed gives another front."""
    (one,) = trained(ROWS["one piece"][1], tmp_path / "one")
    other = row(piece(None, "layer2"), HEAD, train_config={"seed": 4})
    (two,) = trained(other, tmp_path / "two")
    assert not frame_of(one.folder.path).equals(frame_of(two.folder.path))


def random_front(end: str, seed: int = 3, **settings) -> dict:
    return row(piece(None, end, random=True), HEAD, train_config={**stitched("layer1", "layer2")["train_config"], "seed": seed, "epochs": 1}, **settings)  # fmt: skip


def test_random_fronts_are_the_same_alone_and_in_a_pack_and_with_a_front_of_their_own(tmp_path, monkeypatch):
    ordinary = row(piece(None, "layer2"), HEAD, train_config=random_front("layer2")["train_config"])
    jobs = [random_front("layer1"), random_front("layer2"), ordinary]
    runs = trained(jobs, tmp_path / "pack")
    assert runs[1].front != runs[2].front  # the same model, and other weights
    assert not frame_of(runs[1].folder.path)["Loss"].equals(frame_of(runs[2].folder.path)["Loss"])
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")
    monkeypatch.setattr(run_builder, "front_of", lambda network, seed: None)
    (own,) = trained(random_front("layer2"), tmp_path / "own")
    same(own.folder.path, tmp_path / "pack" / "run-1")


@pytest.mark.parametrize("frozen_norm", ["running", "batch"])
def test_a_random_front_is_the_same_in_a_run_that_goes_on(tmp_path, frozen_norm):
    data = random_front("layer2", frozen_norm=frozen_norm)
    trained(data, tmp_path / "whole")
    stop = StopRequest()
    setup = RunRequest(job_of(data, tmp_path), RunFolder(tmp_path / "stopped"))

    def stopping(done: int, total: int, words: str) -> None:
        stop.asked = done == 3

    with pytest.raises(Interrupted):
        train([setup], RunOptions(on_progress=stopping, stop=stop))
    train([setup], RunOptions(resume=True))
    same(tmp_path / "stopped", tmp_path / "whole" / "run-0")


def test_a_random_network_takes_no_weights(tmp_path):
    with pytest.raises(UserError, match="a random network takes no weights"):
        trained(row(piece(None, "layer2", random=True, ckp_path="some.pt"), HEAD), tmp_path)
