"""Which files of a folder are sweeps."""

from __future__ import annotations

import pytest

from stitching.cli.sweep_arguments import sweep_files
from stitching.config.errors import UserError

STUDY = """
from stitching.config.schema import Schema
from stitching.sweeps.studies import STUDIES, Study

class Sweep(Schema):
    {mark}: str

@STUDIES.register("{mark}")
class Mine(Study):
    marks = ("{mark}",)
    schema = Sweep
    def plan(self, document, on_progress, cache): ...
    def folder(self, document): ...
"""


def test_a_sweep_of_a_plugins_own_study_is_found_in_its_folder(write):
    write("job.yml", "model: {Net: {model_name: smallnet}}\ntrain_config: {dataset: digits}\n")
    write("list.yml", "- a\n")
    plugin = write("my_study.py", STUDY.format(mark="study_in_folder"))
    mine = write("mine.yml", "plugins: [my_study.py]\nstudy_in_folder: job.yml\n")
    ours = write("ours.yml", "job: job.yml\n")
    assert sweep_files([plugin.parent]) == [mine, ours]
    assert sweep_files([plugin.parent / "m*.yml"]) == [mine]


def test_a_sweep_whose_plugin_is_broken_is_not_passed_over(write):
    broken = write("broken.yml", "plugins: [nowhere.py]\nstudy_of_nobody: job.yml\n")
    assert sweep_files([broken.parent]) == [broken]


def test_a_folder_without_sweeps_says_which_keys_make_one(write):
    folder = write("job.yml", "model: {Net: {model_name: smallnet}}\n").parent
    with pytest.raises(UserError, match=r"there is no sweep in .*\n.*models, stages, src_stages, dest_stages, job"):
        sweep_files([folder])
