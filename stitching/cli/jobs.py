"""The commands for one job and one model: train, inspect."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import AsJson, app, err, out, print_table
from stitching.config.yaml import load_yaml, located, parse_assignments
from stitching.processes import process_rank
from stitching.progress import shown_progress


@app.command(
    epilog="""
Examples: `stitching train -c config.yml`, `stitching train -c config.yml --seed 7 --lr 1e-3`,
`stitching train -c config.yml --set train_config.max_steps=100`, `stitching train -c config.yml --resume`
"""
)
def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="The job's YAML file.")],
    seed: Annotated[int | None, typer.Option(help="Override train_config.seed.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Override train_config.epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Override train_config.batch_size.")] = None,
    lr: Annotated[float | None, typer.Option(help="Override the optimizer's learning rate.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if there is one.")] = None,
    data_path: Annotated[Path | None, typer.Option(help="The folder that holds the data sets.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load images; default: one for each CPU.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override any key of the config; may be repeated."),
    ] = None,
    smoke_test: Annotated[
        bool, typer.Option("--smoke-test", help="Run a few batches of everything and keep nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over and overwrite an earlier result.")] = False,
) -> None:
    """Train one job. Its result, log and checkpoint are written beside the config.

    Options override the file. Ctrl-C saves a checkpoint; --resume continues from it.
    """
    from stitching.config.job_files import override
    from stitching.launch.smoke_tests import smoke_test_sweep
    from stitching.runs.one_job import run_job, smoke_test_job
    from stitching.sweeps.studies import is_sweep

    out.quiet = err.quiet = process_rank().rank > 0
    document = load_yaml(config)
    values: dict[str, Any] = {
        "train_config.seed": seed, "train_config.epochs": epochs, "train_config.batch_size": batch_size,
        "train_config.lr": lr, "device": device,
        "data_path": str(data_path.absolute()) if data_path else None,
        "workers": workers,
    }  # fmt: skip
    with located(document):
        changes = {key: value for key, value in values.items() if value is not None} | parse_assignments(
            assignments or [], "--set", "train_config.epochs=3"
        )
        for key, value in changes.items():
            override(document, key, value, f"command line ({key})")
        with shown_progress(err, "steps") as on_progress:
            if is_sweep(document):
                report = smoke_test_sweep(document, on_progress, only_tests=smoke_test)
            elif smoke_test:
                report = smoke_test_job(document, on_progress)
            else:
                report = run_job(document, resume=resume, overwrite=overwrite, on_progress=on_progress, again=_again())
    out.print(report.words, markup=False, soft_wrap=True)
    raise typer.Exit(report.exit_code)


@app.command(
    epilog="""
Examples: `stitching inspect timm/resnet50`, `stitching inspect torchvision/swin_t --stages`,
`stitching inspect timm/vit_small_patch16_224 --stages --yaml`, `stitching inspect timm/resnet18 --arg in_chans=1`
"""
)
def inspect(
    model: Annotated[str, typer.Argument(metavar="BACKEND/NAME", help="timm/..., torchvision/... or local/smallnet.")],
    stages: Annotated[
        bool, typer.Option("--stages", help="List the stages that a sweep would use, not the cut points.")
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the stages as YAML (`stages:`) to paste into a sweep.")
    ] = False,
    as_json: AsJson = False,
    image_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Image size in pixels; default: the model's own.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the model; may be repeated.")
    ] = None,
) -> None:
    """List where a model can be cut: name, format, size, and what lies before and after.

    Costs are for one image; MACs are multiply-adds of convolutions, linear layers and attention.
    """
    from stitching.cli import inspection

    inspected = inspection.inspect_model(model, arguments or [], image_size=image_size, stages=stages or as_yaml)
    if as_json:
        print(json.dumps(inspected.as_json(), indent=1))
    elif as_yaml:
        print(inspected.as_yaml(), end="")
    else:
        print_table(inspected.title, inspected.columns, inspected.rows)
        for line in inspected.notes:
            print(line)


def _again() -> str:
    """This command line, made to go on from the checkpoint."""
    arguments = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    return shlex.join(["stitching", *arguments, "--resume"])
