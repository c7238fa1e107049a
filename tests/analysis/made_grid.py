"""A made-up grid study: one job over learning rates and data sets, three seeds, with a validation split."""

from __future__ import annotations

from pathlib import Path

from stitching.runs.folder import write_yaml
from stitching.runs.step_log import ACCURACY, StepLog

VAL = "Overall/Val Accuracy"
RATES = {0.001: 0.5, 0.01: 0.7, 0.1: 0.6}  # their test accuracies on digits
DATA = {"digits": 0.0, "cifar10": -0.3}


def make_grid(folder: Path, *, data=tuple(DATA), rates=tuple(RATES), seeds: int = 3) -> Path:
    """The runs of a study `lr`. By validation 0.1 is the best rate, by test accuracy 0.01 would be."""
    for dataset in data:
        for rate in rates:
            for seed in range(1, seeds + 1):
                accuracy = RATES[rate] + DATA[dataset] + 0.01 * (seed - 2)
                run = folder / "lr" / f"train-{dataset}-{rate}-{seed}"
                run.mkdir(parents=True)
                train = {"dataset": dataset, "epochs": 2, "seed": seed, "optimizer_args": {"lr": rate}}
                write_yaml(run / "metadata.yml", {
                    "name": run.name, "arch": "lr", "study": "grid", "seed": seed, "state": "done", "device": "cpu",
                    "macs": 10**6, "train_config.dataset": dataset, "train_config.optimizer_args.lr": rate,
                    "config": {"train_config": train, "model": {"Net": {"model_name": "smallnet"}}},
                })  # fmt: skip
                StepLog([
                    {"Step": epoch, "Epoch": epoch, ACCURACY: accuracy * epoch / 2, VAL: 0.4 + rate}
                    for epoch in (1, 2)
                ]).save(run / "result.pkl")  # fmt: skip
    return folder
