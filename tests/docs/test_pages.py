"""Every page of docs/ runs as written, is linked from docs/README.md, and names only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
from pages import ROOT, run_page

PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/extending/*.md")])


def _parameter(path: Path):
    marks = [pytest.mark.slow] if pages.is_slow(path.read_text()) else []
    return pytest.param(path, id=str(path.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("path", map(_parameter, PAGES))
def test_a_page_runs_as_written(path, tmp_path):
    (tmp_path / "page").mkdir()
    run_page(path, tmp_path / "page")


def test_every_page_is_linked_from_the_index():
    index = (ROOT / "docs/README.md").read_text()
    linked = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#:]+)", index)}
    missing = [str(path.relative_to(ROOT)) for path in PAGES if path not in linked and path.name != "README.md"]
    assert not missing, "link these in docs/README.md"


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ +(.+?)\s*$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# Paths in backticks that name something of the repository; what runs write is not there before they ran.
_OF_THE_REPOSITORY = re.compile(
    r"(?:stitching|tests|docs|across-scales|experiments/digits|sbatch|\.ci)/[\w./-]*|Makefile|pyproject\.toml"
)


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_and_names_exists(path):
    text = path.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text()), link
    for named in re.findall(r"`([^`\s]+)`", text):
        if _OF_THE_REPOSITORY.fullmatch(named) and not named.endswith((".pt", ".pkl", ".parquet")):
            assert (ROOT / named).exists() or (path.parent / named).exists(), named
