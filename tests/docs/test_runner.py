"""The runner of documentation pages fails where a page is wrong, and says where."""

from __future__ import annotations

import os
import sys

import pages
import pytest
from pages import PageError, run_page


@pytest.fixture
def run(tmp_path):
    def run(text: str, **options) -> None:
        page = tmp_path / "page.md"
        page.write_text(text)
        (tmp_path / "folder").mkdir()
        run_page(page, tmp_path / "folder", **options)

    return run


def test_files_commands_and_python_run_in_one_folder(run, tmp_path):
    run("""\
# A page

```yaml deep/config.yml
key: 1
```

```bash
cd deep       # stays there, as in a shell
export COLOUR="dark blue"
cat config.yml | sed s/1/2/ \\
  > second.yml
```

```python
import os
from pathlib import Path

here = Path.cwd()
```

```python
assert Path("second.yml").read_text() == "key: 2\\n"
Path("environment").write_text(os.environ["COLOUR"])
```

```text
rm -rf what is only shown
```
""")
    assert (tmp_path / "folder/deep/environment").read_text() == "dark blue"
    assert "COLOUR" not in os.environ


def test_stitching_runs_in_the_process_that_has_torch(run):
    run(
        '```bash\nstitching inspect local/smallnet --help\n```\n```python\nimport sys\nassert sys.argv[0] == "stitching"\n```\n'
    )


def test_what_a_page_changes_stays_in_the_page(run):
    run("```python\nimport sys\nsys.modules['of_the_page'] = sys\n```\n")
    assert "of_the_page" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A page\n\n```bash\nls\nstitching train -c nowhere.yml\n```\n", r"page.md:5: exit code 2 of `stitching train.*\n(.|\n)*nowhere.yml"),
        ("```bash\nls missing | cat\n```\n", "page.md:2: exit code 2"),
        ("```bash\ncd nowhere\n```\n", "FileNotFoundError"),
        ("\n\n```python\nx = 1\nassert x == 2, 'not two'\n```\n", "page.md:5: AssertionError: not two"),
        ("```python my.py\nraise SystemExit(3)\n```\n```bash\npython my.py\n```\n", "page.md:5: exit code 3"),
        ("```python\nimport os\nos.kill(os.getpid(), 9)\n```\n", "signal 9"),
        ("# Only words\n", "nothing in it runs"),
        ("```yaml config.yml\nkey: 1\n```\n", "nothing in it runs"),
        ("# Title\n```console\n$ ls\n```\n", "page.md:2: a block in 'console'"),
        ("```\nls\n```\n", "page.md:1: a block in 'no language'"),
        ("```bash\nls\n", "page.md:1: this block is not closed"),
    ],
)  # fmt: skip
def test_a_page_that_is_wrong_fails_with_its_line(run, text, message):
    with pytest.raises(PageError, match=message):
        run(text)


def test_a_page_that_hangs_is_ended(run):
    with pytest.raises(PageError, match="signal 14"):
        run("```bash\nsleep 60\n```\n", seconds=1)


def test_a_page_may_say_why_it_is_not_run_and_that_it_is_slow(run):
    run("<!-- not run: it needs ImageNet -->\n```bash\nfalse\n```\n")
    assert not pages.reason_not_to_run("<!-- not run: -->\n")
    assert pages.is_slow("<!-- slow -->\n# A page\n")
