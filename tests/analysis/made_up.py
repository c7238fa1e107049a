"""A made-up project of up to 300 runs, the way a finished or half-finished set of sweeps would have left it.

Nothing is random: each accuracy is a formula of what the run is, with a small wobble that its number gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitching.runs.folder import write_yaml
from stitching.runs.step_log import ACCURACY, StepLog

RUNS = 300
BASES = {"timm/resnet50.a1_in1k": (0.802, 25.6e6, 4.1e9), "torchvision/swin_t": (0.814, 28.3e6, 4.5e9)}
RESNET, SWIN = BASES
PAIRS = ((RESNET, RESNET), (RESNET, SWIN), (SWIN, RESNET))
GAPS = ((1, 1), (1, 2), (1, 4), (3, 4), (5, 6))
ADAPTERS = {  # what it costs for each block dropped, and its parameters
    "downsample_then_linear": (0.06, 0.5e6), "downsample_then_3x3conv": (0.03, 3.0e6),
    "downsample_then_block": (0.02, 6.0e6), "affine": (0.08, 0.4e6),
}  # fmt: skip
CONTROLS = {"random_source": 0.45, "random_dest": 0.3, "adapter_only": 0.15}  # what they cost more
FAILURE = "CUDA out of memory: tried to allocate 2 GiB"
EPOCHS = 3
# Of the affine runs of seed 3, by number of the pair and gap.
STATES = {
    (0, (1, 4)): "failed", (1, (1, 4)): "failed", (2, (1, 2)): "failed", (0, (5, 6)): "running", (1, (5, 6)): "running",
    (2, (1, 4)): "submitted", (2, (5, 6)): "submitted",
}  # fmt: skip
LOST = ((0, (1, 2)), (1, (1, 1)))


def make_project(
    folder: Path, *, pairs: Sequence[tuple] = PAIRS, gaps: Sequence[tuple] = GAPS, every: int = 1, extras: bool = True
) -> Path:
    """The project's runs in `folder`, a sweep for each pair; the folder is returned.

    Of a whole one 291 runs are done, three failed, two are running, two are waiting, and two have lost their result.

    Args:
        folder: made if it is not there.
        pairs: of networks, each a sweep.
        gaps: the blocks dropped.
        every: only each so-manieth run was started, and no sweep has evaluated its networks.
        extras: whether there are a validation split, agreement, controls, and settings that vary.
    """
    runs = _runs(pairs, gaps, extras)
    for number, (sweep, about) in enumerate(runs):
        if every == 1 or (number % every == 0 and "base" not in about):
            _write(folder / sweep, number, about, extras)
    return folder


def _runs(pairs: Sequence[tuple], gaps: Sequence[tuple], extras: bool) -> list[tuple[str, dict[str, Any]]]:
    """(sweep, what the run is) of each run."""
    found: list[tuple[str, dict[str, Any]]] = []
    for pair in pairs:
        sweep = f"{_short(pair[0])}-{_short(pair[1])}"
        cells = [(gap, adapter) for gap in gaps for adapter in ADAPTERS]
        found += [(sweep, _cell(pair, *cell, seed)) for cell in cells for seed in (1, 2, 3)]
        if extras:
            found += [(sweep, {**_cell(pair, gap, adapter, 1), "control": control})
                      for gap in gaps for adapter in list(ADAPTERS)[:2] for control in CONTROLS]  # fmt: skip
            found += [(sweep, {**_cell((title, title), (cut, cut - 1), "identity", 1), "control": "self"})
                      for title in dict.fromkeys(pair) for cut in ((1, 3) if title == SWIN else (1,))]  # fmt: skip
        found += [(sweep, {"base": title, "seed": 1}) for title in dict.fromkeys(pair)]
    for lr, weight_decay in ((4e-3, 0.05), (2e-3, 0.0), (4e-3, 0.0)) if extras else ():  # an ablation of one gap
        found += [(f"{_short(RESNET)}-ablation", _cell(PAIRS[0], (1, 2), adapter, seed, lr, weight_decay))
                  for adapter in list(ADAPTERS)[2:] for seed in (1, 2, 3)]  # fmt: skip
    return found


def _short(title: str) -> str:
    return title.split("/")[1].split(".")[0]


def _cell(pair: tuple[str, str], gap: tuple[int, int], adapter: str, seed: int, lr=2e-3, weight_decay=0.05) -> dict:
    return {
        "source": pair[0], "destination": pair[1], "first_deleted_block": gap[0], "last_deleted_block": gap[1],
        "adapter": adapter, "seed": seed, "lr": lr, "weight_decay": weight_decay,
    }  # fmt: skip


def _write(folder: Path, number: int, about: dict[str, Any], extras: bool) -> None:
    lr, weight_decay = about.pop("lr", 2e-3), about.pop("weight_decay", 0.05)
    train = {"dataset": "imagenet", "epochs": EPOCHS, "seed": about["seed"],
             "optimizer_args": {"lr": lr, "weight_decay": weight_decay}}  # fmt: skip
    config: dict[str, Any] = {"train_config": train, "model": {"Assembly": {"parts": []}}}
    parameters, macs, stop = 0.0, 0.0, EPOCHS
    if title := about.pop("base", None):
        accuracy, parameters, macs = BASES[title]
        backend, name = title.split("/")
        backend = "pytorch" if backend == "torchvision" else backend
        config |= {"test_only": True, "model": {"Net": {"backend": backend, "model_name": name}}}
        agreement, stop = None, 0
    else:
        base, dest_parameters, dest_macs = BASES[about["destination"]]
        dropped = about["last_deleted_block"] - about["first_deleted_block"] + 1
        cost, size = ADAPTERS.get(about["adapter"], (0, 0))
        control = about.get("control")
        wobble = 0 if control == "self" else 0.01 * np.sin(number)
        worse = CONTROLS.get(control, 0) + 0.02 * (lr != 2e-3) + 0.01 * (weight_decay == 0)
        accuracy = max(0.001, base - cost * dropped - worse + wobble)
        agreement = 1.0 if control == "self" else accuracy + 0.05
        left = 1 - dropped / 8 if control != "adapter_only" else about["first_deleted_block"] / 8
        parameters, macs = dest_parameters * left + size, dest_macs * left + size * 100
        about |= {
            "source_depth": about["first_deleted_block"] / 8,
            "destination_depth": (about["last_deleted_block"] + 1) / 8,
        }
        stop = 0 if control == "self" else EPOCHS
    state, lost = "done", False
    if about.get("adapter") == "affine" and not about.get("control") and about["seed"] == 3 and (lr, weight_decay) == (
        2e-3, 0.05,
    ):  # fmt: skip
        gap = (about["first_deleted_block"], about["last_deleted_block"])
        here = (PAIRS.index((about["source"], about["destination"])), gap)
        state, lost = STATES.get(here, "done"), here in LOST
        about |= {"failure": FAILURE} if state == "failed" else {}
    run = folder / f"train-{number:03d}"
    run.mkdir(parents=True)
    metadata = {**about, "name": run.name, "state": state, "device": "cuda", "parameters": int(parameters),
                "macs": int(macs), "config": config}  # fmt: skip
    if extras:
        metadata |= {"test_images": 50_000, "validation": {"fraction": 0.1, "images": 100}}
    write_yaml(run / "metadata.yml", metadata)
    if state == "submitted" or lost:
        return
    rows = []
    for epoch in range(min(stop, 1), (stop if state == "done" else 1) + 1):
        part = (epoch + 1) / (stop + 1)
        row = {"Step": 10 * epoch, "Epoch": epoch, "Loss": 3 - part, ACCURACY: accuracy * part**0.3}
        if extras:
            row |= {"Overall/Val Accuracy": row[ACCURACY] + 0.01, "Overall/Val Loss": 2 - part}
            row |= {"Overall/Test Agreement": agreement * part**0.3} if agreement else {}
        rows.append(row)
    StepLog(rows).save(run / "result.pkl")
