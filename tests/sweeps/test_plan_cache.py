"""What is known of networks is as it was found out, or forgotten."""

from __future__ import annotations

import os

import pytest

from stitching.sweeps.plan_cache import PlanCache


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "networks.json"
    known = PlanCache(path)
    known.get("a network", lambda: {"macs": 123_456_789})
    known.save()
    return path


def test_it_is_kept(file):
    assert PlanCache(file).get("a network", pytest.fail) == {"macs": 123_456_789}


def test_no_flipped_bit_changes_a_number(file):
    data = file.read_bytes()
    for place in range(len(data)):
        for bit in (0, 3, 7):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            assert PlanCache(file).values == {}, place


@pytest.mark.parametrize("text", [b"", b"\n", b"{}", b"[1]", b'{"versions": [], "values": 3}', b"\xff\n" * 9])
def test_what_is_something_else_counts_as_empty(file, text):
    file.write_bytes(text)
    assert PlanCache(file).values == {}


def test_a_pipe_or_a_folder_in_its_place_counts_as_empty(file):
    file.unlink()
    os.mkfifo(file)
    assert PlanCache(file).values == {}
    file.unlink()
    file.mkdir()
    known = PlanCache(file)
    assert known.get("x", lambda: 1) == 1
    known.save()
