"""What users write into sweeps and profiles never runs in a batch script, and never changes where its logs are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small_sweeps import ROW, write_sweep

from stitching.config.clusters import ClusterProfile, Profile
from stitching.config.errors import UserError
from stitching.config.sweep import folder_of, read_sweep
from stitching.config.yaml import Document, load_yaml
from stitching.launch.schedulers import Cluster, load_cluster
from stitching.launch.schedulers.slurm import Slurm
from stitching.runs.folder import RunFolder
from stitching.sweeps.grid_values import Combination, GridValue
from stitching.sweeps.names import Names
from stitching.sweeps.studies import make_plan
from stitching.sweeps.variants import Variant

HARMLESS = [
    "it's", 'a"b', "$(touch PWNED)", "`touch PWNED`", "a; touch PWNED", "a b", "a & touch PWNED", "a | touch PWNED",
    "> PWNED", "'; touch PWNED; '", "' ; touch PWNED #", "$HOME", "~", "!!", "-x", "--uid=0", "# x", "ünïcödé", "日本", "*",
    "{a,b}", "=", "x=y",
]  # fmt: skip
REFUSED = [
    "x'\"\ntouch PWNED #", "x\ntouch PWNED", "x\r\ntouch PWNED", "x'\ntouch PWNED\n'", "%j", "50%", "x\\ny", "x\ty",
    "\x1b[31m", "x\u2028y", "x\x7f",
]  # fmt: skip


@pytest.fixture
def run_script(tmp_path_factory, monkeypatch):
    """Run a batch script as Slurm would, but that `srun` says what it was called with; gives that and the folder."""
    programs, work = tmp_path_factory.mktemp("programs"), tmp_path_factory.mktemp("work")
    (programs / "srun").write_text("""#!/bin/sh\nprintf '%s\\0' "$@" > called_with\n""")
    (programs / "scontrol").write_text("#!/bin/sh\necho MaxArraySize = 1001\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def run(script: str) -> list[str]:
        (work / "called_with").unlink(missing_ok=True)
        subprocess.run(["bash"], input=script.encode(), cwd=work, check=True, capture_output=True)
        assert [path.name for path in work.iterdir()] == ["called_with"]
        return (work / "called_with").read_text().split("\0")[:-1]

    return run


def load_profile(name: str, sweep: Path, changes: dict[str, object]) -> ClusterProfile:
    return load_cluster(name, sweep, changes).profile


def script_of(folder: Path, profile: ClusterProfile | None = None) -> str:
    slurm = Slurm("slurm")
    cluster = Cluster("c", slurm, profile or Profile())
    (script,) = slurm.scripts([[RunFolder(folder / "run")]], folder / "slurm", cluster)
    return script


def assert_starts_the_task(called_with: list[str], folder: Path) -> None:
    logs = folder / "slurm" / "NAME"
    start = [sys.executable, "-u", "-m", "submitit.core._submit", str(logs)]
    assert called_with == ["--unbuffered", "--output", f"{logs}/%j_%t_log.out", *start]


def options_of(script: str) -> dict[str, str]:
    """The options of sbatch in a script, as a shell would take their quotes off."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {' '.join(lines)}"], capture_output=True, check=True
    ).stdout.decode()
    return dict(option.partition("=")[::2] for option in printed.split("\0")[:-1])


@pytest.mark.parametrize("key", ["project", "save_dir"])
@pytest.mark.parametrize("value", [*HARMLESS, *REFUSED])
def test_names_of_folders(tmp_path, run_script, key, value):
    (tmp_path / "experiments").mkdir()
    path = write_sweep(tmp_path / "small.yml", **ROW, **{key: value})
    if value in REFUSED:
        with pytest.raises(UserError, match="batch scripts of Slurm") as told:
            read_sweep(load_yaml(path))
        assert f"{path}:" in str(told.value)
        assert told.value.path == (key,)
        return
    if key == "save_dir" and value == "~":
        return  # the home folder
    folder = folder_of(read_sweep(load_yaml(path)), path)
    assert value in str(folder)
    script = script_of(folder)
    assert_starts_the_task(run_script(script), folder)
    assert options_of(script)["output"] == f"{folder}/slurm/NAME/%j_0_log.out"


@pytest.mark.parametrize("value", [*HARMLESS, *REFUSED])
def test_names_of_sweeps_and_of_the_folders_that_they_lie_in(tmp_path, run_script, value):
    """The name of the file is refused at once; a folder's name only where Slurm is to have it in a script."""
    path = write_sweep(tmp_path / "small.yml", **ROW)
    sweep = read_sweep(load_yaml(path))
    for named in (tmp_path / f"{value}.yml", tmp_path / value / "small.yml"):
        folder = folder_of(sweep, named)
        if value not in REFUSED:
            assert_starts_the_task(run_script(script_of(folder)), folder)
            continue
        with pytest.raises(UserError, match="has the character") as told:
            script_of(folder)
        assert "save_dir" in told.value.do
        if named.parent == tmp_path:
            with pytest.raises(UserError, match=r"the file's name .* has the character"):
                make_plan(Document(named, load_yaml(path).data))


@pytest.mark.parametrize("key", ["partition", "constraint", "account", "sbatch.comment"])
@pytest.mark.parametrize("value", [*HARMLESS, *REFUSED])
def test_values_of_profiles(tmp_path, run_script, key, value):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch").mkdir()
    top, _, option = key.partition(".")
    (tmp_path / "sbatch" / "clusters.yml").write_text(
        yaml.safe_dump({"c": {top: {option: value} if option else value}})
    )
    if value in REFUSED:
        with pytest.raises(UserError, match="has the character") as told:
            load_profile("c", tmp_path / "small.yml", {})
        assert "clusters.yml:" in str(told.value)
        with pytest.raises(UserError, match="command line"):
            load_profile("c", tmp_path / "small.yml", {key: value})
        return
    script = script_of(tmp_path, load_profile("c", tmp_path / "small.yml", {}))
    assert_starts_the_task(run_script(script), tmp_path)
    assert options_of(script)[option or key] == value


@pytest.mark.parametrize(
    "key",
    ["qos\ntouch PWNED #", "a b", "qos=x --uid", "%j", "$(x)", "", "-q", "array", "arr", "output", "o", "open_mode",
     "parsable", "quiet", "test-only", "clusters", "wait", "job_name"],
)  # fmt: skip
def test_options_of_sbatch_that_are_none_or_the_launchers_own(tmp_path, key):
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch" / "clusters.yml").write_text(yaml.safe_dump({"c": {"sbatch": {key: "x"}}}))
    with pytest.raises(UserError, match=r"is no option of sbatch|the launcher sets this option") as told:
        load_profile("c", tmp_path / "small.yml", {})
    assert "clusters.yml:" in str(told.value)


def test_options_of_sbatch_that_look_like_the_launchers_own():
    profile = Profile(sbatch={"exclude": "a,b", "wait-all-nodes": 1, "oversubscribe": True, "qos": "long"})
    assert profile.sbatch["wait-all-nodes"] == 1


@pytest.mark.parametrize("value", [*HARMLESS, *REFUSED, "a/b", "../x"])
def test_names_of_runs_are_names_of_folders(value):
    """Whatever models are called, and whatever a grid varies."""
    row = SimpleNamespace(title=f"local/{value}")
    cell = SimpleNamespace(gap=(1, 2), source=row, dest=row, control=None, stitcher="affine", only_tests=False)
    chosen = Combination(None, {f"train_config.loss_fn_args.{value}": GridValue(value, 0)})
    variant = Variant(0, chosen, None, None, ((), ()))
    names = Names(
        "small", [cell, SimpleNamespace(**{**vars(cell), "dest": SimpleNamespace(title="b")})], seeds_named=False
    )
    name = names.of(cell, variant)
    assert all(c.isalnum() or c in "-_.+," for c in name)


def test_a_profiles_own_setup_is_shell(tmp_path, run_script):
    script = script_of(tmp_path, Profile(setup=["export X=1", "true"]))
    assert "\nexport X=1\ntrue\n" in script
    assert_starts_the_task(run_script(script), tmp_path)


def test_a_task_knows_how_many_gpus_it_was_given(tmp_path, run_script):
    assert "\nexport STITCHING_GPUS=2\n" in script_of(tmp_path, Profile(gpus=2))
    assert "\nunset STITCHING_GPUS\n" in script_of(tmp_path, Profile())
