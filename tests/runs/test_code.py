"""Digests of the code: of all of it, and of what can change a number."""

from __future__ import annotations

import pytest

from stitching.runs.checked import Damaged, checked_json, read_checked_json
from stitching.runs.code import PACKAGE, _files, code_digest, code_files, digest_of, package_digest


@pytest.fixture
def package(tmp_path):
    """A copy of the package."""
    copy = tmp_path / "stitching"
    for name, content in _files(PACKAGE).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("file", "changes_numbers"),
    [
        ("cli/watching.py", False),
        ("analysis/plots/style.py", False),
        ("nets/adapters.py", True),
        ("training/trainer.py", True),
    ],
)
def test_commands_and_figures_are_no_code_of_a_run(package, file, changes_numbers):
    with open(package / file, "a") as text:
        text.write("# an edit\n")
    assert digest_of(_files(package)) != package_digest()
    assert (digest_of(code_files(package)) != code_digest()) == changes_numbers


def test_what_editors_and_python_leave_is_no_code(package):
    (package / "__pycache__").mkdir(exist_ok=True)
    for name in ("__pycache__/jobs.cpython-311.pyc", ".jobs.py.swp", "jobs.py~"):
        (package / name).write_bytes(b"\0")
    assert digest_of(_files(package)) == package_digest()


def test_a_file_that_moves_its_content_to_another_is_other_code():
    assert digest_of({"a": b"1", "b": b""}) != digest_of({"a": b"", "b": b"1"})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe\0", b'{"sha256": 1}', b"[" * 100_000])
def test_json_that_does_not_fit_its_digest_is_damaged(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(checked_json({"runs": ["one", None, 2.5]}))
    assert read_checked_json(path) == {"runs": ["one", None, 2.5]}
    path.write_bytes(content or path.read_bytes().replace(b"one", b"two"))
    with pytest.raises(Damaged, match=r"a\.json is damaged"):
        read_checked_json(path)
