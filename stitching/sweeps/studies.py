"""Studies: what turns a sweep's YAML into jobs with names and metadata.

A study is one class. What comes behind the plan (submit, status, retry, results) knows runs only, not their study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from stitching.config.errors import UserError
from stitching.config.plugins import load_plugins
from stitching.config.registries import Registry
from stitching.config.schema import Schema
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.config.yaml import Document
from stitching.progress import ProgressCallback
from stitching.sweeps.plan import Plan
from stitching.sweeps.plan_cache import PlanCache

__all__ = ["STUDIES", "Study", "check_has_gaps", "is_sweep", "make_plan", "marks_of_sweeps", "study_of"]


class Study(ABC):
    """One kind of study.

    Attributes:
        marks: keys on top of the YAML, any of which says that a file is a sweep of this study.
        schema: of the file.
        has_gaps: whether it stitches networks over gaps, which `stitching score` can rank.
    """

    marks: ClassVar[tuple[str, ...]]
    schema: ClassVar[type[Schema]]
    has_gaps: ClassVar[bool] = False

    @abstractmethod
    def plan(self, document: Document, on_progress: ProgressCallback, cache: PlanCache) -> Plan:
        """Everything that the sweep in `document` will do; nothing is written, downloaded or submitted.

        Args:
            document: the sweep. Its file's name names the sweep, and its place says which project it is of.
            on_progress: shows progress.
            cache: what earlier plans found out; the plan is the same without it.

        Raises:
            UserError: with the keys that lead to it. Everything that is wrong is reported at once.
        """

    @abstractmethod
    def folder(self, document: Document) -> Path:
        """Where the sweep in `document` keeps its runs, without planning it. Raises `UserError` if it is no sweep."""


STUDIES: Registry[type[Study]] = Registry(
    "study",
    "stitching.sweeps.gaps_study",
    "stitching.sweeps.grid_study",
    "stitching.sweeps.datasets_study",
    "stitching.sweeps.cross_test",
)


def study_of(document: Document) -> Study:
    """The study that a sweep is of, by the keys that mark it; of gaps, where there are none.

    Raises:
        UserError: there are keys of two studies.
    """
    load_plugins(document)
    keys = document.data if isinstance(document.data, dict) else {}
    marked = [(mark, study) for _, study in STUDIES.items() for mark in study.marks if mark in keys]
    if len({study for _, study in marked}) > 1:
        first, other = marked[0][0], next(mark for mark, study in marked if study is not marked[0][1])
        raise document.locate(
            UserError(f"the sweep has the keys `{first}:` and `{other}:`", allowed="one of them", path=(other,))
        )
    return (marked[0][1] if marked else STUDIES["gaps"])()


def marks_of_sweeps() -> list[str]:
    """The keys by which a YAML file is known to be a sweep."""
    return [mark for _, study in STUDIES.items() for mark in study.marks]


def is_sweep(document: Document) -> bool:
    """Whether a document has a key that marks a sweep, of a study of ours or of its own plugins.

    Raises:
        UserError: it names a plugin that cannot be imported.
    """
    if not isinstance(document.data, dict):
        return False
    if document.data.keys().isdisjoint(marks_of_sweeps()):
        load_plugins(document)  # which may bring a study
    return not document.data.keys().isdisjoint(marks_of_sweeps())


def check_has_gaps(document: Document) -> None:
    """Raise `UserError` if the sweep in a document is of a study without gaps."""
    study = study_of(document)
    if not study.has_gaps:
        mark = next(mark for mark in study.marks if mark in document.data)
        with_gaps = [mark for _, other in STUDIES.items() if other.has_gaps for mark in other.marks]
        raise UserError(
            f"a sweep with `{mark}:` has no gaps to score",
            allowed=f"a sweep with one of the keys {', '.join(with_gaps)}", path=(mark,),
        )  # fmt: skip


def make_plan(document: Document, on_progress: ProgressCallback | None = None, cache: PlanCache | None = None) -> Plan:
    """The plan of the sweep in a document; arguments and errors are as for `Study.plan`."""
    character = unfit_character(document.path.stem)
    if character is not None:  # it names folders, and these stand in batch scripts
        raise UserError(
            f"the file's name {document.path.name!r} has the character {character!r}", allowed=ALLOWED,
            do=f"{WHY} Rename it.",
        )  # fmt: skip
    return study_of(document).plan(document, on_progress or (lambda *_: None), cache or PlanCache())
