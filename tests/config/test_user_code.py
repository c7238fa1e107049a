"""A user's own code: found, run once for each content, with what it imports from beside it, and never half."""

from __future__ import annotations

import os
import sys

import pytest

from stitching.config.errors import UserError
from stitching.config.user_code import load_user_code, user_code_digest, user_code_files


def test_a_file_is_run_once_for_each_content_and_leaves_the_search_path_alone(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import os\nos.environ['RUNS'] = str(int(os.environ.get('RUNS', 0)) + 1)\nVALUE = 1\n")
    before = list(sys.path)
    os.environ.pop("RUNS", None)
    first, again = load_user_code("mine.py", tmp_path), load_user_code(str(path), tmp_path / "elsewhere")
    assert first.module is again.module
    assert (first.path, first.module.__file__, first.module.VALUE) == (path, str(path), 1)
    assert os.environ.pop("RUNS") == "1"
    path.write_text("VALUE = 23\n")
    other = load_user_code("mine.py", tmp_path)
    assert (first.module.VALUE, other.module.VALUE) == (1, 23)
    assert first.digest != other.digest
    assert sys.path == before


def test_what_lies_beside_it_is_imported_from_there_and_counts(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import my_layers\nimport my_pkg.deep as deep\nfrom my_pkg import more\nfrom . import my_layers as same\n"
        "from pathlib import Path\nimport plain.inner\n"
        "def late():\n    from later import LATE\n    return LATE\n"
        "TOTAL = my_layers.A + deep.B + more.C + plain.inner.D\nSAME = same is my_layers\n"
    )
    (tmp_path / "my_layers.py").write_text("A = 1\n")
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text("")
    (tmp_path / "my_pkg" / "deep.py").write_text("from . import more\nfrom my_layers import A\nB = 9 * A + more.C\n")
    (tmp_path / "my_pkg" / "more.py").write_text("C = 100\n")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "inner.py").write_text("D = 1000\n")
    (tmp_path / "later.py").write_text("LATE = 'late'\n")
    (tmp_path / "unused.py").write_text("raise RuntimeError\n")
    (tmp_path / "pathlib.py").write_text("raise RuntimeError  # the standard library's is meant\n")
    first = load_user_code("mine.py", tmp_path)
    assert first.module.TOTAL == 1 + (9 + 100) + 100 + 1000
    assert first.module.SAME
    assert first.module.late() == "late"
    digest, files = user_code_files("mine.py", tmp_path)
    assert digest == first.digest
    assert sorted(files) == [
        "later.py", "mine.py", "my_layers.py", "my_pkg/__init__.py", "my_pkg/deep.py", "my_pkg/more.py",
        "plain/inner.py",
    ]  # fmt: skip
    assert not {"my_layers", "my_pkg", "later"} & sys.modules.keys()
    (tmp_path / "later.py").write_text("LATE = 'later'\n")
    assert user_code_digest("mine.py", tmp_path) != first.digest
    second = load_user_code("mine.py", tmp_path).module
    assert (first.module.late(), second.late()) == ("late", "later")
    before = user_code_digest("mine.py", tmp_path)
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "mine.py").rename(tmp_path / "renamed.py")
    assert user_code_digest("renamed.py", tmp_path) == before


def test_what_it_cannot_know_of_is_not_imported_from_beside_it(tmp_path):
    (tmp_path / "mine.py").write_text("import importlib\nimportlib.import_module('hid' + 'den')\n")
    (tmp_path / "hidden.py").write_text("")
    with pytest.raises(UserError, match=r"mine.py:2: ModuleNotFoundError"):
        load_user_code("mine.py", tmp_path)


def test_the_digest_is_known_without_running_anything(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('run')\n")
    assert len(user_code_digest("mine.py", tmp_path)) == 12


def test_an_installed_module_by_its_dotted_name(tmp_path, monkeypatch):
    package = tmp_path / "an_installed_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text("from an_installed_package.layers import WIDTH\n")
    (package / "layers.py").write_text("WIDTH = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = load_user_code("an_installed_package.models", tmp_path / "anywhere")
    assert (code.module.WIDTH, code.module.__name__) == (3, "an_installed_package.models")
    assert code.path == package / "models.py"
    (package / "layers.py").write_text("WIDTH = 14\n")
    assert user_code_digest("an_installed_package.models", tmp_path) != code.digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nif x\n", r"mine.py:2: SyntaxError"),
        ("x = 1\n\nx.no\n", r"mine.py:3: AttributeError: .*no attribute"),
        ("import sys\nsys.exit(3)\n", r"mine.py:2: exits while it is imported \(3\)"),
        ("import json\njson.loads('x')\n", r"mine.py:2: JSONDecodeError: Expecting"),  # not the library's own line
        ("import broken\n", r"broken.py:1: SyntaxError"),
        ("import failing\n", r"failing.py:2: KeyError"),
        ("import not_there_at_all\n", r"mine.py:1: ModuleNotFoundError"),
        ("from .. import above\n", r"mine.py:1: "),
        ("x = '\0'\n", r"mine.py"),
        ("(" * 2000 + ")" * 2000, r"mine.py"),
        ("raise\n", r"mine.py:1: RuntimeError"),
    ],
)
def test_code_that_fails_is_one_message_with_file_and_line(tmp_path, source, message):
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "failing.py").write_text("x = {}\nx['no']\n")
    for _ in range(2):  # nothing half-run stays behind
        with pytest.raises(UserError, match=message):
            load_user_code("mine.py", tmp_path)


@pytest.mark.parametrize(
    "name",
    ["missing.py", "folder.py", "pipe.py", "", ".", "a b", "os; rm", "../up", "class.x", "no_such_package_at_all",
     "json.no_such_module", "sys", "math", "x\0.py", "~nobody_at_all/x.py"],
)  # fmt: skip
def test_what_is_no_code_is_one_message(tmp_path, name):
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    for find in (load_user_code, user_code_digest):
        with pytest.raises(UserError):
            find(name, tmp_path)
