"""Calling `stitching train` a second time: nothing is lost, and nothing is taken for what it is not."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from stitching.runs.folder import FolderBusy
from stitching.runs.identity import identity
from stitching.runs.kinds import load_job
from stitching.runs.one_job import _Start, run_job
from stitching.runs.step_log import read_result


@pytest.fixture
def config(write, small_job) -> Path:
    return write("config.yml", small_job)


@pytest.fixture
def stopped(cli, monkeypatch):
    """Train until the first step, then stop as Ctrl-C does; gives what was printed."""

    def call(*arguments):
        import os
        import signal

        from stitching.training.run import Run

        step = Run.train_step

        def stopping(self, *args, **kwargs):
            step(self, *args, **kwargs)
            os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "train_step", stopping)
            outcome = cli("train", *arguments)
        assert outcome.code == 130, outcome
        return outcome.out

    return call


@pytest.mark.parametrize("options", [["--seed", "7"], ["--lr", "0.5", "--set", "verbose=true"], ["--overwrite"]])
def test_the_advice_after_a_stop_goes_on_with_the_same_run(cli, config, stopped, options):
    advice = shlex.split(stopped("-c", config, *options).splitlines()[-1])
    assert advice[:2] == ["stitching", "train"]
    assert "--overwrite" not in advice
    outcome = cli(*advice[1:])
    assert outcome.code == 0, outcome.err
    assert "resumed at epoch 1, step 1" in next(config.parent.glob("log*.txt")).read_text()
    assert len(list(config.parent.glob("result*.pkl"))) == 1


def test_resuming_another_seed_is_told(cli, config, stopped):
    stopped("-c", config, "--seed", "7")
    outcome = cli("train", "-c", config, "--resume")
    assert outcome.code == 2
    assert "--seed 7" in outcome.err
    assert not list(config.parent.glob("result*.pkl"))
    assert cli("train", "-c", config).code == 0, "a run of another seed may begin"


def test_a_result_that_is_gone_is_made_again(cli, config):
    assert cli("train", "-c", config).code == 0
    before = read_result(config.parent / "result.pkl")["Loss"]
    (config.parent / "result.pkl").unlink()
    assert cli("train", "-c", config, "--resume").code == 0
    assert read_result(config.parent / "result.pkl")["Loss"].equals(before)
    (config.parent / "result.pkl").write_bytes(b"cut off")
    outcome = cli("train", "-c", config, "--resume")
    assert outcome.code == 2
    assert "result.pkl or result.parquet is damaged" in outcome.err


def test_resume_from_in_the_config_protects_results_too(cli, config, write, small_job, stopped):
    stopped("-c", config)
    config = write("config.yml", f"resume_from: checkpoint.pt\n{small_job}")
    assert cli("train", "-c", config).code == 0
    assert "resumed at epoch 1, step 1" in (config.parent / "log.txt").read_text()
    assert "Nothing to do" in cli("train", "-c", config).out
    other = write("elsewhere/config.yml", f"resume_from: ../old.pt\n{small_job}")
    (other.parent / "result.pkl").write_bytes(b"precious")
    outcome = cli("train", "-c", other)
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert (other.parent / "result.pkl").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: 0.01", "lr: 0.01, weight_decay: 0"),
        ("image_size: 8", "image_size: 8, data_augmentation: none"),
        ("epochs: 2", "epochs: 2\n  data_augmentation: false"),
        ("epochs: 2", "epochs: 2\n  loss_fn_args:\n  aux_losses:"),
        ("  optimizer_args: {lr: 0.01}", "  lr: 1.0e-2"),
        ("train_config:", "workers: 2\nverbose: true\ntrain_config:"),
    ],
)
def test_the_same_job_written_otherwise_is_the_same(config, write, small_job, old, new):
    assert old in small_job
    changed = identity(load_job(write("other.yml", small_job.replace(old, new))))
    assert (changed == identity(load_job(config))) == ("weight_decay" not in new)


def test_the_older_form_is_the_same_job(config, write, small_job):
    data = yaml.safe_load(small_job)
    data["assembly"] = data.pop("model")["Assembly"]["parts"]
    assert identity(load_job(write("older.yml", yaml.safe_dump(data)))) == identity(load_job(config))


def test_an_image_folder_is_known_by_its_files(write, small_job):
    job = small_job.replace("dataset: digits", "dataset: image_folder")
    known = []
    for name, files in (("a", ["1.png"]), ("b", ["1.png"]), ("c", ["1.png", "2.png"])):
        for file in files:
            for split in ("train", "val"):
                write(f"{name}/{split}/cat/{file}", "")
        known.append(identity(load_job(write(f"{name}.yml", f"data_path: {name}\n{job}"))))
    assert known[0] == known[1] != known[2]


@pytest.mark.parametrize("key", ["train_config.lr", "train_config.optimizer_args.lr"])
@pytest.mark.parametrize("written", ["  lr: 0.3\n", "  optimizer_args: {lr: 0.3}\n"])
def test_what_the_command_line_says_wins_wherever_the_file_says_it(cli, write, small_job, key, written):
    config = write("config.yml", small_job.replace("  optimizer_args: {lr: 0.01}\n", written))
    assert cli("train", "-c", config, "--set", f"{key}=0.25", "--epochs", "1").code == 0
    assert set(read_result(config.parent / "result.pkl")["LR"]) == {0.25}


def test_stopped_by_a_scheduler_without_a_single_step_is_a_failure(cli, config, monkeypatch):
    """As exit code 130 would put it back into the queue, again and again."""
    import os
    import signal

    from stitching.training.run import Run

    test = Run.eval_step

    def stopping(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR2)
        return test(self, *args, **kwargs)

    monkeypatch.setattr(Run, "eval_step", stopping)
    first = cli("train", "-c", config, "--set", "checkpoint_initial_model=true")
    assert first.code == 1, first
    assert "before the first step" in first.out
    some = cli("train", "-c", config, "--overwrite")
    assert some.code == 130, some  # in the test after the first epoch
    again = cli("train", "-c", config, "--resume")
    assert again.code == 1, again


def test_a_start_during_which_another_one_ends_loses_nothing(cli, config, monkeypatch):
    """What lies in the folder counts once it is held, not when the command looked first."""
    import stitching.training.session as session
    from stitching.config.yaml import load_yaml

    really, results = session.forget_models, []

    def another_trains_meanwhile():
        monkeypatch.setattr(session, "forget_models", really)
        run_job(load_yaml(config), resume=False, overwrite=False, on_progress=lambda *_: None, again="")
        results.append((config.parent / "result.pkl").read_bytes())

    for options, words in (([], "result.pkl already exists"), (["--resume"], "")):
        monkeypatch.setattr(session, "forget_models", another_trains_meanwhile)
        outcome = cli("train", "-c", config, *options)
        assert outcome.code == (2 if words else 0), outcome
        assert words in outcome.err
        assert words or "Nothing to do" in outcome.out
        assert (config.parent / "result.pkl").read_bytes() == results.pop()
        for file in {*config.parent.iterdir()} - {config}:
            file.unlink()


def test_seeds_that_start_together_have_files_of_their_own(config):
    path = config.parent

    def start(seed: int) -> _Start:
        job = load_job(config)
        job.train_config.seed = seed
        return _Start(job, path, resume=False, overwrite=False)

    first, second, third, again = map(start, (1, 2, 3, 2))
    assert {each.folder.metrics_output for each in (first, second, third)} == {"result.pkl"}, "none has begun"
    with first.hold() as one, second.hold() as two, third.hold() as three:
        assert [folder.metrics_output for folder in (one, two, three)] == [
            "result.pkl", "result-2.pkl", "result-3.pkl"
        ]  # fmt: skip
        with pytest.raises(FolderBusy), again.hold():
            pass
        assert start(3).folder == three


def test_damaged_metadata_stops_all_but_an_overwriting_start(cli, config):
    assert cli("train", "-c", config).code == 0
    (config.parent / "metadata.yml").write_text("state: done\n")
    for option in ("--resume", "--set=verbose=true"):
        outcome = cli("train", "-c", config, option)
        assert outcome.code == 2
        assert "metadata.yml: it is damaged, or was edited" in outcome.err
    assert cli("train", "-c", config, "--overwrite").code == 0
