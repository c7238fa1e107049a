"""What many tests use: the command line in this process, and folders of small configs."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from guards import why_unchanged

os.environ.setdefault("OMP_NUM_THREADS", "2")
OWNS_SERVER = pytest.StashKey[bool]()
CACHE = tempfile.mkdtemp(prefix="stitching-tests-")  # what plans find out is not the user's
os.environ["XDG_CACHE_HOME"] = CACHE
# A grammar of URLs that jsonschema, and so nbformat, takes seconds to build if it is installed; no schema here has any.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OWNS_SERVER] = forked.SESSION not in os.environ
    if config.stash[OWNS_SERVER]:  # the workers of this session share it, as do the two sessions of `make test`
        forked.announce()


# What trains comes first, so that no long file is left to one worker at the end.
LONG_FIRST = ("training", "launch", "analysis", "sweeps", "docs", "cutting")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return LONG_FIRST.index(item.path.parent.name) if item.path.parent.name in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    gc.freeze()  # libraries and test modules stay to the end: no `gc.collect` of a run looks through them again


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()  # as the interpreter takes apart what it can find
    shutil.rmtree(CACHE, ignore_errors=True)
    if config.stash[OWNS_SERVER]:
        forked.forget()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command line as the shell would: `cli("train", "-c", "config.yml")`."""
    from stitching import cli as module

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr("sys.argv", ["stitching", *map(str, arguments)])
        capsys.readouterr()
        try:
            module.main()
            code = 0
        except SystemExit as stopped:
            if isinstance(stopped.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None  # Ctrl-C is meant for the tests
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def forked_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that `--cluster local` starts are forked; all else about them is as ever."""
    forked.fork_tasks(monkeypatch.setattr)


@pytest.fixture
def write(tmp_path: Path):
    """Write a file below the test's folder: `write("config.yml", text)`."""

    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return put


SMALL_JOB = """\
model:
  Assembly:
    parts:
      - Subnet: {model_name: smallnet, num_blocks: 2, width: 8, in_chans: 1, block_output: blocks.0, frozen: true}
      - SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}
      - Subnet: {model_name: smallnet, num_blocks: 2, width: 8, in_chans: 1, block_input: blocks.1, frozen: true}
train_config:
  dataset: digits
  data_preprocessing: {image_size: 8}
  epochs: 2
  batch_size: 256
  optimizer_args: {lr: 0.01}
"""


@pytest.fixture
def small_job() -> str:
    """A stitched network of our own SmallNet on digits: an epoch takes a fraction of a second."""
    return SMALL_JOB


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running one-machine Slurm; skips, with the reason, where it cannot be had.

    With STITCHING_NEED_SLURM=1 in the environment that is an error instead.
    """
    import cluster

    folder = tmp_path_factory.mktemp("slurm")
    before = dict(os.environ)
    try:
        if cluster.missing_programs() and (reason := why_unchanged()):
            raise cluster.Trouble(f"{', '.join(cluster.PACKAGES)} would have to be installed, and {reason}")
        cluster.start(folder)
    except (cluster.Trouble, OSError, subprocess.SubprocessError) as trouble:
        cluster.stop(folder)
        if os.environ.get("STITCHING_NEED_SLURM"):
            raise
        pytest.skip(f"no Slurm here: {trouble}")
    yield folder
    cluster.stop(folder)
    os.environ.clear()
    os.environ.update(before)
