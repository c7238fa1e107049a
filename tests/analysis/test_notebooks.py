"""The notebooks run from top to bottom: on a whole project, on one that has hardly begun, and on real results."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from made_up import FAILURE, PAIRS, RUNS, make_project
from matplotlib.figure import Figure
from nbclient import NotebookClient
from small_sweeps import submit
from traitlets.config import Config

from stitching import load_results, self_stitch_check
from stitching.cli.sweep_arguments import plan_of
from stitching.runs.step_log import ACCURACY, StepLog

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "across-scales" / "across-scales.ipynb"
DIGITS = ROOT / "experiments" / "digits" / "digits.ipynb"
FIGURES = {
    "progress", "gap", "depth", "parameters", "macs", "source-stage", "agreement", "penalties", "depths",
    "learning-curves", "learning-rate", "weight-decay", "best-adapters",
}  # fmt: skip
SMALL = {"pairs": PAIRS[1:2], "gaps": ((1, 1), (1, 4))}


@pytest.mark.parametrize("path", [PROJECT, DIGITS], ids=lambda path: path.stem)
def test_they_are_kept_without_outputs(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert notebook.metadata.keys() <= {"kernelspec", "language_info"}
    assert str(Path.home()) not in path.read_text()


class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        """There is no window here, as in Jupyter."""


def _executed(path: Path, results: Path, figures: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that the notebook prints and shows as text, run by IPython in this process; a cell that raises raises here."""
    monkeypatch.setenv("STITCHING_RESULTS", str(results))
    monkeypatch.setenv("STITCHING_FIGURES", str(figures))
    monkeypatch.chdir(path.parent)
    # Each figure is written to two files; drawing it a third time, for a page that nobody sees, is Jupyter's own work.
    shell = Shell.instance(config=Config({"InlineBackend": {"figure_formats": set()}}))
    texts, figures_shown = [], 0
    try:
        # Tables are whole in a page, and so they are here.
        with matplotlib.rc_context(), pd.option_context("display.max_columns", None, "display.width", 1000):
            for cell in nbformat.read(path, 4).cells:
                if cell.cell_type == "code":
                    with capture_output() as captured:
                        outcome = shell.run_cell(cell.source)
                    outcome.raise_error()
                    texts.append(captured.stdout)  # what the cell's last line gives is in it
                    figures_shown += isinstance(outcome.result, Figure)
    finally:
        Shell.clear_instance()
    assert figures_shown
    return "\n".join(texts)


def _executed_by_jupyter(path: Path, results: Path, figures: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Likewise, in a kernel of its own, as Jupyter does it."""
    monkeypatch.setenv("STITCHING_RESULTS", str(results))
    monkeypatch.setenv("STITCHING_FIGURES", str(figures))
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def _drawn(figures: Path) -> set[str]:
    """The names of the figures, each of which is there as PDF and as PNG."""
    names = {path.stem for path in figures.iterdir()}
    assert {path.name for path in figures.iterdir()} == {f"{name}.{end}" for name in names for end in ("pdf", "png")}
    assert all(path.stat().st_size > 5_000 for path in figures.iterdir())
    return names


@pytest.mark.parametrize(
    ("size", "runs", "failed", "left"),
    [
        pytest.param(SMALL, 59, 1, 2, id="59 runs"),
        pytest.param({}, RUNS, 3, 9, id=f"{RUNS} runs", marks=pytest.mark.slow),
    ],
)
def test_every_figure_of_a_whole_project(tmp_path, monkeypatch, size, runs, failed, left):
    project = make_project(tmp_path / "project", **size)
    shown = _executed(PROJECT, project, tmp_path / "figures", monkeypatch)
    assert _drawn(tmp_path / "figures") == FIGURES
    assert f"{runs} runs: " in shown
    assert "The self-stitch check holds" in shown
    assert f"{failed} failed: {FAILURE}" in shown
    assert f"{left} of {runs} runs are missing, failed or not done yet" in shown
    assert "Not here" not in shown


def test_a_project_that_has_hardly_begun(tmp_path, monkeypatch):
    def laid_out(figure: Figure, path: Path, **_: object) -> None:  # that all are written well is shown above
        figure.draw_without_rendering()
        path.touch()

    monkeypatch.setattr(Figure, "savefig", laid_out)
    project = make_project(tmp_path / "project", every=23, extras=False)
    shown = _executed(PROJECT, project, tmp_path / "figures", monkeypatch)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} < FIGURES
    assert "No whole network was tested yet" in shown
    assert "No self-stitch could be compared" in shown
    assert "Not here: there is no base network of a destination" in shown
    assert "Not here: there is no 'Overall/Val Accuracy' in these runs" in shown


@pytest.mark.slow
def test_jupyter_draws_the_same(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project", every=23, extras=False)
    _executed_by_jupyter(PROJECT, project, tmp_path / "figures", monkeypatch)
    _executed(PROJECT, project, tmp_path / "others", monkeypatch)
    assert _drawn(tmp_path / "figures") == _drawn(tmp_path / "others")


def test_a_broken_self_stitch_is_shouted(tmp_path):
    project = make_project(tmp_path / "project", **SMALL)
    broken = next(path for path in project.rglob("metadata.yml") if "control: self" in path.read_text()).parent
    assert "of 3 self-stitches none differs" in self_stitch_check(load_results(project))
    StepLog([{"Step": 0, "Epoch": 0, ACCURACY: 0.5}]).save(broken / "result.pkl")
    shouted = self_stitch_check(load_results(project))
    assert "THE SELF-STITCH CHECK FAILED" in shouted
    assert broken.name in shouted


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A small sweep, really trained: a network with itself, two gaps, two adapters, controls."""
    folder = tmp_path_factory.mktemp("digits")
    smallnet = {"model_name": "smallnet", "num_blocks": 4, "in_chans": 1, "pretrained": False}
    sweep = {
        "models": [{**smallnet, "width": 8}],
        "gaps": [{"blocks_to_drop": [1, 1]}, {"blocks_to_drop": [2, 2]}],
        "stitchers": ["affine", "downsample_then_3x3conv"],
        "controls": ["self", "random_source"],
        "save_dir": str(folder / "runs"),
        "train_config": {
            "dataset": "digits", "data_preprocessing": {"image_size": 8}, "validation": {"fraction": 0.1},
            "epochs": 2, "batch_size": 128, "optimizer_args": {"lr": 0.03},
        },
    }  # fmt: skip
    (folder / "digits.yml").write_text(yaml.safe_dump(sweep))
    assert submit(plan_of(folder / "digits.yml"), pack=16).failures == {}
    return folder / "runs"


@pytest.mark.parametrize(
    "path", [pytest.param(PROJECT, marks=pytest.mark.slow), DIGITS], ids=[PROJECT.stem, DIGITS.stem]
)
def test_results_of_a_real_sweep(tmp_path, monkeypatch, digits, path):
    shown = _executed(path, digits, tmp_path / "figures", monkeypatch)
    wanted = {"penalties", "agreement"} | ({"gap", "best-adapters"} if path == PROJECT else {"accuracy-by-gap"})
    assert wanted <= _drawn(tmp_path / "figures")
    assert "The self-stitch check holds: of 3 self-stitches" in shown
    assert "downsample_then_3x3conv" in shown


@pytest.mark.slow
@pytest.mark.parametrize("path", [PROJECT, DIGITS], ids=lambda path: path.stem)
def test_results_of_the_demo(tmp_path, monkeypatch, path):
    demo = ROOT / "experiments" / "demo" / "digits"
    if not demo.is_dir():
        pytest.skip("`make demo` has not been run here")
    shown = _executed_by_jupyter(path, demo, tmp_path / "figures", monkeypatch)
    assert "The self-stitch check holds: of 8 self-stitches" in shown
