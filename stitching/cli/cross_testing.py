"""The command cross-test: encoders and heads of fine-tuned networks in all combinations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stitching.cli.console import app, out
from stitching.cli.results import print_cross_tests
from stitching.cli.submitting import (
    ArrayParallelism,
    DryRun,
    Jobs,
    Pack,
    SlurmOptions,
    command_again,
    planner,
    print_scripts,
    profile_changes,
    submit_orders,
)
from stitching.cli.sweep_arguments import PACK, DataPath
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml

if TYPE_CHECKING:
    from stitching.launch.orders import Order


@app.command(
    "cross-test",
    epilog="""
Examples: `stitching cross-test cross.yml`, `stitching cross-test cross.yml --cluster nvgpu --pack 16 -o cross.pdf`
""",
)
def cross_test(
    file: Annotated[Path, typer.Argument(metavar="FILE.yml", help="The cross test: a YAML file with `ft_configs:`.")],
    cluster: Annotated[
        str, typer.Option(help="Where to run: local (this machine), or a profile in sbatch/clusters.yml.")
    ] = "local",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the heatmap here; by default beside the runs.")
    ] = None,
    pack: Pack = PACK,
    jobs: Jobs = None,
    data_path: DataPath = None,
    array_parallelism: ArrayParallelism = None,
    slurm: SlurmOptions = None,
    dry_run: DryRun = False,
) -> None:
    """Test every encoder of fine-tuned networks with every head, on the head's data set, and print the table.

    What is done is not tested again. `plan`, `status`, `retry`, `cancel` and `results` work on the file as on a sweep.
    """
    from stitching.launch.orders import load_orders

    keys = load_yaml(file).data
    if not isinstance(keys, dict) or "ft_configs" not in keys:
        raise UserError(f"{file} is no cross test", allowed="a YAML file with the key `ft_configs`")
    changes = profile_changes(jobs, array_parallelism, slurm)
    (order,) = load_orders([file], cluster, changes, planner(None, data_path))
    if dry_run:
        print_scripts([order], pack)
        return
    went_well = submit_orders([order], pack, command_again("cross-test", [file], cluster, None, data_path))
    _show(order, output)
    if not went_well:
        raise typer.Exit(1)


def _show(order: Order, output: Path | None) -> None:
    """Print the table of what is done, and draw it; nothing where nothing is done yet."""
    from stitching.analysis.load import load_results
    from stitching.analysis.plots import FIGURES, save_figure
    from stitching.analysis.statistics import cross_tests
    from stitching.launch.orders import Survey

    folder = order.plan.folder
    survey = Survey.of(order.plan)
    if not any(survey.state_of(run) == "done" for run in order.plan.runs):
        return
    tests = cross_tests(load_results(folder))
    tests = tests[tests["name"].isin([run.name for run in order.plan.runs])]
    print_cross_tests(tests)
    for path in save_figure(FIGURES["cross-test"](tests), output or folder / "cross-test.png"):
        out.print(f"Figure: {path}", markup=False, soft_wrap=True)
