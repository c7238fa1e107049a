from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import yaml

from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, parse_assignments, yaml_blocks, yaml_text


def test_scalars_read_as_people_mean_them(write):
    data = load_yaml(write("a.yml", "a: 1e-3\nb: 1.5e3\nc: 2024-01-01\non: 1\nd: 12\ne: .5\nf: '1e-3'\ng: true\n")).data
    assert data == {"a": 1e-3, "b": 1500.0, "c": "2024-01-01", "on": 1, "d": 12, "e": 0.5, "f": "1e-3", "g": True}
    assert isinstance(data["a"], float)
    assert isinstance(data["d"], int)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"), ("010", 10), ("0o10", 8), ("0x1F", 31), ("0b1", "0b1"), ("100_000", 100_000), ("_1", "_1"),
        ("-3", -3), ("+3", 3), ("1e3", 1000.0), ("1E-3", 1e-3), (".5e3", 500.0), ("5.", 5.0), ("-.5", -0.5), ("1e", "1e"),
        ("~", None), ("", None), ("NULL", None), ("True", True), ("yes", "yes"), ("off", "off"), ("n", "n"), ("=", "="),
        ("2024-01-01", "2024-01-01"), ("2024-01-01 10:00:00", "2024-01-01 10:00:00"), ("!!str 12", "12"), ("'12'", "12"),
    ],
)  # fmt: skip
def test_plain_text_means_what_yaml_1_2_says(write, text, value):
    for version in ("", "%YAML 1.1\n---\n"):
        read = load_yaml(write("a.yml", f"{version}a: {text}\n")).data["a"]
        assert (read, type(read)) == (value, type(value))
    read = parse_assignments([f"a={text}"], "--set", "a=1")["a"]
    assert (read, type(read)) == (value, type(value))


# What one of the two versions of YAML takes for something else than text, what breaks lines, what must be escaped.
AMBIGUOUS = [
    "", " ", "~", "null", "Null", "true", "TRUE", "yes", "No", "on", "OFF", "y", "n", "1", "-1", "+1", "010", "0o10",
    "0x1F", "0b101", "1_000", "1:30", "1:30:00.5", "1e3", "1e-3", "1E+3", "1.5", ".5", "5.", "-.5e3", ".inf", "-.INF",
    ".nan", "<<", "=", "2024-01-01", "2024-01-01T10:00:00Z", "a: b", "a #b", "#", "- a", "-", "?", ": a", "[a", "{a",
    "!include x.yml", "!!str a", "&a", "*a", "%YAML 1.1", "---", "...", "|", ">", "'", '"', "a'b", "\\", "@a", "`a",
    "\n", "a\n", "\na", "a\nb", "a\n\n b \n", "\t", "a\tb", "\r", "a\r\nb", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85",
    "a\u2028b", "\u2029", "\ufeff", "a\ufeffb", "\xa0", "é", "\U0001f600", "\ufffe", "a" * 200, "word " * 60, "k" * 130,
]  # fmt: skip


def _random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    letters = "0123456789.:-+_eEoxbyYnN~<=#,[]{}&*!|>'\"%@`? \n\ttrufalsino\u2028é"
    return ["".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(number)]


def test_what_is_written_reads_back_equal(write, tmp_path):
    texts = [*AMBIGUOUS, *_random_texts(600)]
    numbers = [0, -7, 2**70, 1.0, 1e-05, 1e300, 0.1, -0.0, 1e16, True, False, None]
    data = {"texts": texts, "numbers": numbers, "keys": {text: i for i, text in enumerate(texts)}, "none": [[], {}]}
    text = yaml_text(data)
    assert yaml.safe_load(text) == data  # YAML 1.1, as other programs have it
    assert yaml.load(text, yaml.CSafeLoader) == data
    allowed = [text for text in texts if "\x00" not in text]
    data = {"texts": allowed, "numbers": numbers, "keys": {text: i for i, text in enumerate(allowed)}, "none": [[], {}]}
    read = load_yaml(write("a.yml", yaml_text(data))).data
    assert read == data
    assert [type(value) for value in read["numbers"]] == [type(value) for value in numbers]


def test_blocks_that_are_kept_are_written_as_they_are():
    for value in (1, True, 1.0, "1", -0.0, 0.0, "true", [1], [True], {"a": 1}, {"a": 1.0}, None, []):
        for key in ("a", "1", "true"):
            assert yaml_blocks({key: value, "b": value}) == yaml_text({key: value}) + yaml_text({"b": value})
    settings = [0.9, 0.95]
    assert yaml.safe_load(yaml_blocks({"a": settings, "also": [settings]}).splitlines()[-1]) == [0.95]  # no alias
    settings[1] = 0.99
    assert yaml.safe_load(yaml_blocks({"a": settings})) == {"a": [0.9, 0.99]}
    assert yaml_blocks({}) == yaml_text({})


def test_half_a_surrogate_pair_can_be_written():
    assert yaml.safe_load(yaml_text({"reason": "a\udcffb"})) == {"reason": "a\\udcffb"}


def test_include_anchor_and_merge_keep_their_places(write):
    write("parts/gaps.yml", "- {blocks_to_drop: [1, 1]}\n- {blocks_to_drop: [1, 2]}\n")
    path = write(
        "a.yml", "base: &base {x: 1, y: 2}\nboth:\n  <<: *base\n  y: 3\nseveral: *base\ngaps: !include parts/gaps.yml\n"
    )
    document = load_yaml(path)
    assert document.data["both"] == {"x": 1, "y": 3}
    assert document.data["several"] == {"x": 1, "y": 2}
    assert document.data["gaps"][1] == {"blocks_to_drop": [1, 2]}
    assert document.locations["gaps", 1, "blocks_to_drop"].endswith("gaps.yml:2")
    assert document.locations["both", "y"].endswith("a.yml:4")
    assert document.locations["both", "x"].endswith("a.yml:1")


def test_an_included_file_is_merged_and_what_stands_beside_it_wins(write):
    write("base.yml", "x: 1\ny: {z: 2}\n")
    document = load_yaml(write("a.yml", "both:\n  y: 3\n  <<: !include base.yml\n"))
    assert document.data["both"] == {"x": 1, "y": 3}
    assert document.locations["both", "x"].endswith("base.yml:1")
    assert document.locations["both", "y"].endswith("a.yml:2")
    write("base.yml", "[1, 2]\n")
    with pytest.raises(UserError, match="merges mappings only"):
        load_yaml(write("a.yml", "both:\n  <<: !include base.yml\n"))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "is repeated (first at"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !run x\n", 1, "!include FILE"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: !include nowhere.yml\n", 1, "there is no file"),
        ("b: 1\na: !include a.yml\n", 2, "include each other"),
        ("a: &x [1, *x]\n", 1, "contains itself"),
        ("? [1, 2]\n: 3\n", 1, "single word"),
        ("? !include b.yml\n: 3\n", 1, "single word"),
        ("a: !include\n", 1, "needs the name of a file"),
        ("a: !include [b.yml]\n", 1, "needs the name of a file"),
        ("a: 1\nb: !!timestamp 2024-01-01\n", 2, "tag"),
        ("a: !!int x\n", 1, "cannot read 'x' as int"),
        ("a: " + "1" * 5000 + "\n", 1, "cannot read"),
        ("a: 1\nb: *nothing\n", 2, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        # what no file or terminal could hold
        ("a: 1\nb: x\x00y\n", 2, "U+0000"),
        ('a: 1\nb: "x\\0y"\n', 2, "U+0000"),
        ('a: "\\ud800"\n', 1, "U+D800"),
        ('"\\ud800": 1\n', 1, "U+D800"),
        ('a: !include "x\\0.yml"\n', 1, "U+0000"),
        # what has no end
        ("a: 1\nb: " + "[" * 900 + "]" * 900 + "\n", 2, "nested more than 100 deep"),
        ("a: 1\nb: " + "{a: " * 900 + "}" * 900 + "\n", 2, "nested more than 100 deep"),
        (
            "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(200)),
            1,
            "nested more than 100 deep",
        ),
        ("a: &a\n  b: 1\n  <<: *a\n", 1, "contains itself"),
        ("a: &a\n  b: {<<: *a}\n", 1, "contains itself"),
        # what cannot be included
        ("a: !include .\n", 1, "is a folder"),
        (f"a: !include {'x' * 300}.yml\n", 1, "File name too long"),
        ("b: 1\na: !include circle.yml\n", 2, "is no path"),
        ("b: 1\na: !include fifo.yml\n", 2, "is a pipe"),
        ("b: 1\na: !include /dev/zero\n", 2, "is a device"),
        ("b: 1\na: !include big.yml\n", 2, "1,000,000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors_name_file_and_line(write, tmp_path, text, line, words):
    path = write("a.yml", text)
    _odd_files(tmp_path)
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


def _odd_files(folder: Path) -> None:
    (folder / "circle.yml").symlink_to(folder / "other.yml")
    (folder / "other.yml").symlink_to(folder / "circle.yml")
    os.mkfifo(folder / "fifo.yml")
    with open(folder / "big.yml", "wb") as file:
        file.truncate(20_000_000)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("circle.yml", "no path"), ("fifo.yml", "a pipe"), ("big.yml", "20,000,000 bytes"), (".", "a folder"),
        ("x" * 300, "no path"), ("no/such.yml", "no file"), ("\0", "no path"), ("a.yml/b.yml", "no file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(write, tmp_path, name, words):
    write("a.yml", "a: 1\n")
    _odd_files(tmp_path)
    with pytest.raises(UserError, match=words):
        load_yaml(tmp_path / name)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.yml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_yaml(tmp_path / "a.yml").data == {"a": 1}
    (tmp_path / "a.yml").write_bytes("a: 1\n".encode("utf-16"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_yaml(tmp_path / "a.yml")


@pytest.mark.parametrize(
    "lines",
    [
        ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))],
        ["a0: &a0 {}", *(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 9))],
    ],
    ids=["aliases", "merge keys"],
)
def test_nested_aliases_do_not_explode(write, lines):
    with pytest.raises(UserError, match="expands to more than 200,000 values"):
        load_yaml(write("a.yml", "\n".join(lines)))


def test_files_that_include_many_others_have_an_end(write):
    write("b.yml", "a: 1\n" + "#" * 400_000)
    with pytest.raises(UserError, match="1,000,000 bytes"):
        load_yaml(write("a.yml", "- !include b.yml\n" * 10_000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=[1", "not YAML"), ("a={b: 1, b: 2}", "is repeated"), ("a=!include x.yml", "not allowed"),
        ("a=" + "[" * 900, "nested more than 100 deep"), ('a="\\ud800"', "U+D800"), ("a=\0", "U+0000"),
    ],
)  # fmt: skip
def test_assignments_that_are_no_yaml(text, words):
    with pytest.raises(UserError, match="--set") as caught:
        parse_assignments([text], "--set", "a=1")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_missing_file_names_its_neighbours(write, tmp_path):
    write("config.yml", "a: 1\n")
    with pytest.raises(UserError, match=r"config\.yml"):
        load_yaml(tmp_path / "confg.yml")
