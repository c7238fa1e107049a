"""The README is true: its commands exist, its Python runs, and (slow) the demo and every command do what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from stitching.cli import app
from stitching.runs.step_log import read_result

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[str]:
    return [line.split("  #")[0].strip() for block in _blocks("bash") for line in block.splitlines() if line.strip()]


def test_it_opens_with_the_two_commands():
    first = _blocks("bash")[0]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]
    assert README.index(first) < 1200


@pytest.mark.parametrize("line", [line for line in _commands() if line.startswith("stitching ")])
def test_its_commands_parse(line):
    command, *arguments = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    assert command in group.commands
    group.commands[command].make_context(command, arguments)  # raises for an option that there is not


def test_its_targets_exist():  # its links and paths: tests/docs/test_pages.py
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_it_is_one_page_that_leads_to_the_others():
    assert len(README.split()) < 1000
    assert {"docs/README.md", "docs/cluster.md", "docs/configuration.md"} <= set(re.findall(r"\]\(([^)]+)\)", README))


@pytest.mark.slow
def test_the_demo_and_every_command_run_as_written(tmp_path):
    installed = Path(sys.prefix)
    assert (installed / ".installed").exists(), "run this with `make test-slow`"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, tracked):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(installed)
    environment = os.environ | {"PATH": f"{installed / 'bin'}:{os.environ['PATH']}"}
    environment.pop("OMP_NUM_THREADS", None)  # of the tests; a new user has not set it

    def run(line: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    shown = run("make demo", tmp_path)
    assert "136 runs done, 0 done before, 0 failed" in shown
    assert (tmp_path / "experiments/demo/accuracy-by-gap.png").stat().st_size > 10_000
    for name, least in (("resnet", 0.95), ("vit", 0.93)):
        run("stitching train -c config.yml", tmp_path / "experiments/digits" / name)
        result = read_result(tmp_path / "experiments/digits" / name / "result.pkl")
        assert result["Overall/Test Accuracy"].iloc[-1] >= least

    for block in _blocks("bash")[1:]:
        run(f"set -e\n{block}", tmp_path)
    for block in _blocks("python"):
        run(f"python -c {shlex.quote(block)}", tmp_path)
