from __future__ import annotations

import pytest

from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml


def test_scalars_read_as_people_mean_them(write):
    data = load_yaml(write("a.yml", "a: 1e-3\nb: 1.5e3\nc: 2024-01-01\non: 1\nd: 12\ne: .5\nf: '1e-3'\ng: true\n")).data
    assert data == {"a": 1e-3, "b": 1500.0, "c": "2024-01-01", "on": 1, "d": 12, "e": 0.5, "f": "1e-3", "g": True}
    assert isinstance(data["a"], float)
    assert isinstance(data["d"], int)


def test_include_anchor_and_merge_keep_their_places(write):
    write("parts/gaps.yml", "- {blocks_to_drop: [1, 1]}\n- {blocks_to_drop: [1, 2]}\n")
    path = write(
        "a.yml", "base: &base {x: 1, y: 2}\nboth:\n  <<: *base\n  y: 3\nseveral: *base\ngaps: !include parts/gaps.yml\n"
    )
    document = load_yaml(path)
    assert document.data["both"] == {"x": 1, "y": 3}
    assert document.data["several"] == {"x": 1, "y": 2}
    assert document.data["gaps"][1] == {"blocks_to_drop": [1, 2]}
    assert document.places["gaps", 1, "blocks_to_drop"].endswith("gaps.yml:2")
    assert document.places["both", "y"].endswith("a.yml:4")
    assert document.places["both", "x"].endswith("a.yml:1")


def test_an_included_file_is_merged_and_what_stands_beside_it_wins(write):
    write("base.yml", "x: 1\ny: {z: 2}\n")
    document = load_yaml(write("a.yml", "both:\n  y: 3\n  <<: !include base.yml\n"))
    assert document.data["both"] == {"x": 1, "y": 3}
    assert document.places["both", "x"].endswith("base.yml:1")
    assert document.places["both", "y"].endswith("a.yml:2")
    write("base.yml", "[1, 2]\n")
    with pytest.raises(UserError, match="merges mappings only"):
        load_yaml(write("a.yml", "both:\n  <<: !include base.yml\n"))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "stands twice (first at"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !run x\n", 1, "!include FILE"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: !include nowhere.yml\n", 1, "does not exist"),
        ("b: 1\na: !include a.yml\n", 2, "include each other"),
        ("a: &x [1, *x]\n", 1, "contains itself"),
        ("? [1, 2]\n: 3\n", 1, "single word"),
    ],
)
def test_errors_name_file_and_line(write, text, line, words):
    path = write("a.yml", text)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


def test_nested_aliases_do_not_explode(write):
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(UserError, match="unfolds to more than"):
        load_yaml(write("a.yml", "\n".join(lines)))


def test_a_missing_file_names_its_neighbours(write, tmp_path):
    write("config.yml", "a: 1\n")
    with pytest.raises(UserError, match=r"config\.yml"):
        load_yaml(tmp_path / "confg.yml")
