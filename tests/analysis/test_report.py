"""The report as a file: whole in itself, nothing in it that runs, and told what is wrong before it is made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from made_runs import ACCURACY, RESNET, VIT, make_base, make_run
from made_study import make_study
from user_errors import assert_user_error, files_below
from yaml_files import read_yaml

from stitching.analysis.checks import failed_checks
from stitching.analysis.load import load_results
from stitching.analysis.markup import json_in_page
from stitching.analysis.plots.heatmaps import plot_penalties
from stitching.analysis.report import make_report
from stitching.launch.status import sweep_status
from stitching.runs.folder import write_yaml
from stitching.runs.state import expected_in
from stitching.runs.step_log import StepLog

NETS = {title: {"Net": dict(zip(("backend", "model_name"), title.split("/"), strict=True))} for title in (RESNET, VIT)}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp("study") / "project", seeds=2, gaps=((1, 1), (1, 2)))


@pytest.fixture(scope="module")
def page(study) -> str:
    return make_report([study])


def _own_part(page: str) -> str:
    """The page without plotly.js, which has addresses of maps in it that it never asks for here."""
    start = max((match for match in re.finditer(r"<script>", page)), key=lambda match: len(page[match.start() : page.index("</script>", match.start())]))  # fmt: skip
    return page[: start.start()] + page[page.index("</script>", start.start()) :]


def test_it_needs_nothing_but_itself(page):
    ours = _own_part(page)
    assert len(ours) < len(page) - 3_000_000
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", ours)
    assert not re.findall(r"https?://|@import|url\(", ours)
    assert "default-src 'none'" in ours


def test_names_are_text_and_end_no_script(page):
    ours = _own_part(page)
    assert "<script>alert" not in ours
    assert "&lt;script&gt;alert(" in ours
    assert "<i>odd</i>" not in ours
    nasty = {"a": "</script><script>alert(1)</script>", "b": float("nan"), "c": [1.5, None, pd.NA]}
    text = json_in_page(nasty)
    assert "<" not in text
    assert json.loads(text) == {"a": nasty["a"], "b": None, "c": [1.5, None, None]}


def test_failed_runs_stand_there_with_their_reason(page):
    table = page[page.index('id="unfinished-table"') :]
    assert "at step 3" in table[: table.index("</table>")]
    assert "1</b>failed" in page
    assert "1</b>running" in page
    assert 'class="alarm"' not in page


def test_numbers_in_the_table_are_those_of_the_runs(tmp_path):
    make_run(tmp_path, "a", 0.62345, pair=(RESNET, VIT), parameters=12_345, macs=10**9)
    make_base(tmp_path / "base", 0.9, NETS[VIT])
    page = make_report([tmp_path])
    table = page[page.index('id="runs-table"') :]
    for shown in ('data-value="0.62345">0.6234', 'data-value="12345.0">12,345', "27.66"):  # the penalty in points
        assert shown in table[: table.index("</table>")]


def test_a_half_finished_sweep_has_a_page_that_says_what_is_missing(tmp_path):
    run = make_run(tmp_path, "a", 0.5, state="running")
    page = make_report([tmp_path])
    assert "no stitched network has been trained to the end" in page
    assert "1</b>running" in page
    assert str(run) in page


# ------------------------------------------------------------------------ checks


def _self_stitch(folder: Path, accuracy: float, **more) -> None:
    make_run(folder, f"self-{len(list(folder.glob('self*')))}", accuracy, pair=(VIT, VIT), gap=(3, 2), adapter="identity", control="self", **more)  # fmt: skip


def test_a_self_stitch_must_have_exactly_the_accuracy_of_its_network(tmp_path):
    make_base(tmp_path / "base", 0.9, NETS[VIT])
    _self_stitch(tmp_path, 0.9)
    assert failed_checks(load_results(tmp_path)) == []
    _self_stitch(tmp_path, 0.9 - 1e-6)
    (failed,) = failed_checks(load_results(tmp_path))
    assert failed == (
        "self-1 (timm/vit_tiny stitched to itself with the identity): it should be the network that it was cut from, and "
        "has test accuracy 0.899999, not 0.9."
    )
    assert failed in make_report([tmp_path]).replace("&#x27;", "'")


def test_a_self_stitch_must_predict_what_its_network_does(tmp_path):
    """`status` and `results` hold the same against it, with or without the network's own run."""
    _self_stitch(tmp_path, 0.9)
    run = tmp_path / "self-0"
    final = {ACCURACY: 0.9, "Overall/Test Agreement": 0.5}
    digests = StepLog([{"Step": 1, "Epoch": 1, **final}]).save(run / "result.pkl")
    write_yaml(run / "metadata.yml", {**read_yaml(run / "metadata.yml"), "final": final, "digests": digests})
    (run / "config.yml").write_text("")
    (failed,) = failed_checks(load_results(tmp_path))
    (status,) = sweep_status(tmp_path, expected_in(tmp_path))
    assert status.words.removeprefix("CHECK FAILED: ") in failed
    assert "predicts the same for 50.0000% only" in failed


def test_nothing_is_checked_without_a_network_to_compare_with(tmp_path):
    _self_stitch(tmp_path, 0.5)
    assert failed_checks(load_results(tmp_path)) == []
    make_base(tmp_path / "resnet", 0.9, NETS[RESNET])
    assert failed_checks(load_results(tmp_path)) == []


def test_results_and_figures_shout_a_failed_check(tmp_path, cli):
    runs = tmp_path / "runs"
    make_run(runs, "a", 0.5, pair=(VIT, VIT))
    make_base(runs / "base", 0.9, NETS[VIT])
    _self_stitch(runs, 0.8)
    for arguments in (("results", runs), ("plot", runs, "-o", tmp_path / "x.png"), ("report", runs, "-o", tmp_path / "x.html")):  # fmt: skip
        outcome = cli(*arguments)
        assert outcome.code == 0
        assert "CHECK FAILED, do not trust these numbers: self-0" in outcome.err


# ------------------------------------------------------------------------ the command


def test_the_command_writes_one_file(tmp_path, cli, study):
    outcome = cli("report", study, "-o", tmp_path / "report.html")
    assert outcome.code == 0, outcome
    assert f"Report: {tmp_path / 'report.html'}" in outcome.out
    assert [path.name for path in files_below(tmp_path)] == ["report.html"]


@pytest.mark.parametrize(
    ("folder", "output", "place", "words"),
    [
        ("nowhere", "report.html", "there is no folder", "nowhere"),
        ("empty", "report.html", "no run in", "has logged anything yet"),
        ("study", "taken", "", "taken is a folder"),
        ("study", "missing/report.html", "there is no folder", "missing"),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(tmp_path, cli, study, folder, output, place, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    outcome = cli("report", study if folder == "study" else tmp_path / folder, "-o", tmp_path / output)
    assert_user_error(outcome, place or str(tmp_path), words)
    assert files_below(tmp_path) == {}


def test_names_at_an_axis_are_text(tmp_path):
    make_study(tmp_path, seeds=1, gaps=((1, 2),))
    (panel, _) = plot_penalties.numbers(load_results(tmp_path)).plotly().panels
    names = panel["yaxis"]["ticktext"]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)
