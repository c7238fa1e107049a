"""The command `score`: rank a sweep's gaps before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stitching.cli.console import AsJson, app, err, out, print_table
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, located
from stitching.progress import shown_progress


@app.command(
    epilog="""
Examples: `stitching score across-scales/digits.yml`, `stitching score sweep.yml --images 1000 -o scores.csv`
"""
)
def score(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP.yml", help="A sweep; its stitchers are ignored.")],
    images: Annotated[
        int, typer.Option(min=4, help="Training images to fit on, and as many held-out images to test on.")
    ] = 500,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the table here (.csv or .parquet); default: the sweep's folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rank a sweep's gaps before training (CKA, Procrustes, least squares).

    For every gap: how alike the source's output and the destination's input are (CKA: 1 is the same up to a rotation;
    Procrustes: 0 is), how well the best affine map predicts one from the other (R2), and the accuracy of the network
    that is stitched with this map. CKA and Procrustes are of training images, to which the map is fitted; R2 and the
    accuracies are of held-out ones: of the sweep's validation images if it has them, else of test images.
    """
    from stitching.analysis.collect import check_ending, save_table
    from stitching.sweeps.plan_cache import PlanCache, cache_file
    from stitching.sweeps.scores import score as score_sweep

    if output:
        check_ending(output)
    document = load_yaml(sweep)
    cache = PlanCache(cache_file())
    try:
        with located(document), shown_progress(err, "steps") as on_progress:
            scores = score_sweep(document, images, cache, on_progress)
    finally:
        cache.save()
    table = scores.table()
    path = output or scores.folder / "scores.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}", do="Name a file with -o.") from None
    save_table(table, path)
    if as_json:
        print(json.dumps(json.loads(table.to_json(orient="records")), indent=1))
        return
    rows = []
    for row in scores.rows:
        numbers = (row.cka, row.procrustes, row.r2, row.accuracy, row.destination_accuracy)
        shown = [f"{number:.3f}" if number is not None else "" for number in numbers]
        gap = f"{row.first_deleted_block}-{row.last_deleted_block}"
        rows.append([row.source, row.destination, gap, *shown, f"declined: {row.declined}" if row.declined else ""])
    columns = ["source", "destination", "gap", "CKA", "Procrustes", "R2", "stitched", "destination", ""]
    print_table(f"Scores of {sweep.stem}", columns, rows)
    out.print(
        f"Fitted to {scores.fit_images} training images of {scores.dataset}; R2 and the accuracies (stitched by the "
        f"map, and the destination's own) are of {scores.held_out_images} {scores.held_out} images; both chosen by "
        f"seed {scores.seed}",
        soft_wrap=True,
    )  # fmt: skip
    for note in scores.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"Table: {path}", markup=False, soft_wrap=True)
