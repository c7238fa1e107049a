"""The shipped YAMLs with a slip in them: one message or none, never a traceback, nothing written, no waiting."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fuzzing import TookTooLong, some_slips, time_limit

from stitching.config.yaml import load_yaml

ROOT = Path(__file__).parents[1]
SECONDS = 20
SMALL_SWEEP = """\
models: [{model_name: smallnet, num_blocks: 3, width: 4, in_chans: 1}]
pairs: [[local/smallnet, local/smallnet]]
gaps: [{blocks_to_drop: [1, 1]}]
stitchers: [affine]
controls: [self]
seeds: [1, 2]
grid: {train_config.optimizer_args.lr: [0.1, 0.01]}
project: small
train_config:
  dataset: digits
  data_preprocessing: {image_size: 8}
  epochs: 1
"""


def assert_user_error_or_done(cli, folder: Path, file: Path, data: Any, number: int, command: list[str]) -> None:
    """So many slips in `file` each end with code 0, or with code 2 and a message, and leave the folder as it is."""
    file.parent.mkdir(exist_ok=True)
    before = _status_below(folder, file)
    wrong = []
    cases = some_slips(data, number)
    for title, text in cases:
        file.write_text(text)
        try:
            with time_limit(SECONDS):
                outcome = cli(*command)
        except TookTooLong:
            wrong.append(f"{title}: took more than {SECONDS} s\n{traceback.format_exc(limit=-6)}")
        except BaseException:
            wrong.append(f"{title}: {traceback.format_exc(limit=-6)}")
        else:
            fine = outcome.code == 0 or (outcome.code == 2 and "rror: " in outcome.err and len(outcome.err) < 30_000)
            if not fine or "Traceback" in outcome.out + outcome.err:
                wrong.append(f"{title}: {outcome}")
        if (after := _status_below(folder, file)) != before:
            wrong.append(f"{title}: wrote {after.keys() ^ before.keys() or 'over something'}")
            before = after
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n\n".join(wrong)


def _status_below(folder: Path, file: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file but the one that is fuzzed."""
    paths = (path for path in sorted(folder.rglob("*")) if path != file)
    return {path: (path.stat().st_size, path.stat().st_mtime_ns if path.is_file() else 0) for path in paths}


def _checkpoint(path: Path, name: str, arguments: dict[str, Any]) -> None:
    path.parent.mkdir()
    torch.save(timm.create_model(name, pretrained=False, **arguments).state_dict(), path)


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the weights of the demo's two networks, untrained."""
    folder = tmp_path / "experiments" / "digits"
    folder.mkdir(parents=True)
    (tmp_path / "across-scales").mkdir()
    for name in ("resnet", "vit"):
        net = load_yaml(ROOT / "experiments" / "digits" / name / "config.yml").data["model"]["Net"]
        own = {key: value for key, value in net.items() if key not in ("backend", "model_name", "pretrained")}
        _checkpoint(folder / name / "weights.pth", net["model_name"], own)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_slip_in_a_job_is_told(cli, tmp_path, write, small_job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write("config.yml", small_job)
    command = ["train", "-c", str(file), "--smoke-test"]
    assert_user_error_or_done(cli, tmp_path, file, load_yaml(file).data, 20, command)


def test_a_slip_in_a_sweep_is_told(cli, tmp_path, write, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write("sweep.yml", SMALL_SWEEP)
    assert cli("plan", file).code == 0  # without a slip
    assert_user_error_or_done(cli, tmp_path, file, load_yaml(file).data, 20, ["plan", str(file)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "vit", "stitch"])
def test_slips_in_the_shipped_jobs_are_told(cli, experiments, tmp_path, name):
    file = experiments / name / "config.yml"
    data = load_yaml(ROOT / "experiments" / "digits" / name / "config.yml").data
    command = ["train", "-c", str(file), "--smoke-test", "--overwrite"]
    assert_user_error_or_done(cli, tmp_path, file, data, 60, command)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "resnet-50-swin-t", "vit-small"])
def test_slips_in_the_shipped_sweeps_are_told(cli, experiments, tmp_path, name):
    data = load_yaml(ROOT / "across-scales" / f"{name}.yml").data
    data["gaps"] = data["gaps"][1:2]  # more of them are planned in the same way
    data["stitchers"] = ["downsample_then_linear"]
    file = tmp_path / "across-scales" / "sweep.yml"
    assert_user_error_or_done(cli, tmp_path, file, data, 60, ["plan", str(file)])


@pytest.mark.slow
def test_slips_in_the_clusters_profiles_are_told(cli, experiments, tmp_path, write):
    sweep = write("across-scales/sweep.yml", SMALL_SWEEP)
    profiles = load_yaml(ROOT / "sbatch" / "clusters.yml").data
    data = {"preempt": profiles["nvgpu2"] | profiles["preempt"]}
    command = ["submit", str(sweep), "--cluster", "preempt", "--dry-run"]
    assert_user_error_or_done(cli, tmp_path, tmp_path / "sbatch" / "clusters.yml", data, 60, command)
