"""A made-up project with everything that a report can show: pairs, gaps, seeds, rates, failures, controls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from made_runs import RESNET, VIT, make_base, make_run

from stitching.runs.step_log import ACCURACY, StepLog

LR = "train_config.optimizer_args.lr"
VAL = "Overall/Val Accuracy"
GAPS = ((1, 1), (1, 2), (1, 4), (3, 4))
ADAPTERS = ("downsample_then_linear", "downsample_then_3x3conv", "affine")
BASES = {RESNET: 0.95, VIT: 0.9}
HOSTILE = "<script>alert('run')</script><b>&amp;"
VERSIONS = {"python": "3.12.1", "torch": "2.9.0", "timm": "1.0.20"}
CODE = {"digest": "0123456789ab", "commit": "f" * 40}


def make_study(
    folder: Path, *, seeds: int = 3, rates=(0.001, 0.01), gaps=GAPS, adapters=ADAPTERS, epochs: int = 4,
    self_accuracy: float = BASES[VIT],
) -> Path:  # fmt: skip
    """Two pairs of networks with all of it; `self_accuracy` other than that of the ViT is a failed check."""
    number = 0
    for source, dest in ((RESNET, VIT), (VIT, RESNET)):
        for gap in gaps:
            for place, adapter in enumerate(adapters):
                for lr in rates:
                    for seed in range(1, seeds + 1):
                        number += 1
                        loss = 0.03 * (gap[1] - gap[0]) * (place + 1) + 0.02 * (lr == rates[0]) + 0.05 * (source == VIT)
                        accuracy = BASES[dest] - 0.04 - loss + 0.01 * math.sin(number)
                        _run(folder, number, accuracy, epochs, pair=(source, dest), gap=gap, adapter=adapter, seed=seed,
                             lr=lr, parameters=10**6 * (5 + place + gap[1]), macs=10**8 * (9 + place - gap[1]))  # fmt: skip
    _controls(folder, self_accuracy)
    failed = _run(folder, 9001, 0.1, 1, name=HOSTILE.replace("/", "∕"), state="failed", failure=f"{HOSTILE} at step 3")
    (failed / "result.parquet").unlink()
    _run(folder, 9002, 0.4, 2, gap=gaps[0], state="running")
    _run(folder, 9003, 0.7, epochs, name="an-<i>odd</i>-name", adapter=HOSTILE.replace("/", "∕"), lr=rates[0])
    for title, accuracy in BASES.items():
        backend, name = title.split("/")
        make_base(folder / f"base-{name}", accuracy, {"Net": {"backend": backend, "model_name": name}})
    return folder


def _controls(folder: Path, self_accuracy: float) -> None:
    for seed in (1, 2):
        for gap in GAPS[:3]:
            for control, accuracy in (("random_source", 0.35), ("random_dest", 0.5), ("adapter_only", 0.6)):
                number = 8000 + 100 * seed + 10 * gap[1] + len(control)
                _run(folder, number, accuracy - 0.02 * gap[1] + 0.01 * seed, 2, gap=gap, seed=seed, control=control)
    _run(folder, 8999, self_accuracy, 1, pair=(VIT, VIT), gap=(3, 2), adapter="identity", control="self")
    _run(folder, 8998, 0.2, 1, pair=(RESNET, VIT), gap=(3, 2), adapter="identity", control="another")


def _run(
    folder: Path, number: int, accuracy: float, epochs: int, *, pair=(RESNET, VIT), gap=(1, 2), lr: float = 0.001,
    name: str | None = None, adapter: str = "affine", **about: Any,
) -> Path:  # fmt: skip
    config = {
        "train_config": {"dataset": "digits", "seed": 1, "epochs": 4, "optimizer_args": {"lr": lr}},
        "frozen_norm": "running",
    }
    name = name or f"train-pair-gap-{gap[0]},{gap[1]}-adapter-{adapter}-{number}"
    about = {
        "source_depth": gap[0] / 8, "destination_depth": (gap[1] + 1) / 8, "parameters": 6 * 10**6, "macs": 10**9,
        "code": CODE, "versions": VERSIONS, **about,
    }  # fmt: skip
    # The config stands last, as a run writes it; the sweep's settings before it.
    run = make_run(folder, name, 0, pair=pair, gap=gap, adapter=adapter, **about, **{LR: lr}, config=config)
    agreement = 1.0 if about.get("control") == "self" else accuracy * 0.9
    rows = [
        {"Step": epoch, "Epoch": epoch, "Loss": 1 / epoch, ACCURACY: accuracy * (1 - 0.5**epoch) / (1 - 0.5**epochs),
         VAL: accuracy * (1 - 0.5**epoch), "Overall/Test Agreement": agreement}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    rows[-1][ACCURACY] = accuracy
    StepLog(rows).save(run / "result.pkl")
    return run
