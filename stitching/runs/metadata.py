"""Reading metadata.yml: the types of the keys that this package uses, and bounds for the rest.

Runs are copied, edited by hand and written by other versions. Wrong types are refused here, where the file is read, so
that everything else (states, tables, figures, the report) can rely on the data.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stitching.text import printable

__all__ = ["UnreadableMetadata", "metadata_of", "simple_metadata_of", "text_of"]

# libyaml's reads thousands of runs in seconds
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 8_000_000
MAX_VALUES = 50_000  # nested aliases are a few lines, and values without end
MAX_KEYS = 500  # at the top level; each is a column
MAX_DEPTH = 100
_MAX_BRACKETS = 10_000  # libyaml crashes the process at some 30,000 within each other
_HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs, which no file can take
_COMPACT = re.compile(r"(?:[-?][ \t]+){100}")  # lists in lists, all on one line


class UnreadableMetadata(ValueError):
    """What is wrong with a metadata.yml, in one sentence."""


def _plain_name(text: str) -> str:
    if printable(text) != text:
        raise ValueError(f"it has characters that cannot be printed: {printable(text[:60])}")
    return text


Name = Annotated[str, Field(max_length=2000), AfterValidator(_plain_name)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Stitch(BaseModel):
    """The keys that the analysis groups by. Other keys may hold anything."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    name: Name | None = None
    arch: Name | None = None
    control: Name | None = None
    source: Name | None = None
    destination: Name | None = None
    adapter: Name | None = None
    first_deleted_block: Annotated[int, Field(ge=-1, le=10_000)] | None = None
    last_deleted_block: Annotated[int, Field(ge=-1, le=10_000)] | None = None
    source_depth: Fraction | None = None
    destination_depth: Fraction | None = None
    num_downsamples: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    macs: Count | None = None


class _Code(BaseModel):
    """Which code ran, as `code_record` has it."""

    model_config = ConfigDict(strict=True, extra="allow")

    digest: Name
    commit: Name | None = None
    modified: bool | None = None


class _Metadata(_Stitch):
    """The keys of a metadata.yml. Every one may be missing: a run that has not started yet has few."""

    also: list[_Stitch] | None = None
    state: Name | None = None
    identity: Name | None = None
    failure: Annotated[str, Field(max_length=100_000)] | None = None
    cause: Name | None = None
    parameters: Count | None = None
    trainable_parameters: Count | None = None
    test_images: Count | None = None
    total_steps: Count | None = None
    first_step: Count | None = None
    steps: Count | None = None
    epoch: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    seconds: Seconds | None = None
    started: Name | None = None
    ended: Name | None = None
    device: Name | None = None
    final: dict[str, float] | None = None
    digests: dict[str, str] | None = None
    code: _Code | None = None
    versions: dict[str, str | None] | None = None
    weights: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


def text_of(path: Path) -> str:
    """The text of a file in a run's folder.

    Raises:
        UnreadableMetadata: it is no regular file (a pipe would wait without end), too large, or no UTF-8 text.
        OSError: as `open` and `read` do.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableMetadata("it is no regular file")
    if status.st_size > MAX_BYTES:
        raise UnreadableMetadata(f"it has {status.st_size:,} bytes; no run writes more than {MAX_BYTES:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UnreadableMetadata("it is not UTF-8 text") from None


def metadata_of(text: str) -> dict[str, Any]:
    """The data in the text of a metadata.yml, its types checked; {} if it is empty.

    A key without a value counts as left out.

    Raises:
        UnreadableMetadata: it is no YAML, no mapping, or something in it is not what a run writes there.
    """
    if text.count("[") + text.count("{") > _MAX_BRACKETS or _COMPACT.search(text):
        raise UnreadableMetadata("it is nested too deep")
    try:
        data = yaml.load(text, _LOADER)  # safe: it creates no objects
    except Exception as error:  # PyYAML raises many types, for an impossible date or a number of 5,000 digits
        reason = (str(error) or type(error).__name__).replace("\n", " ")
        raise UnreadableMetadata(f"it is no YAML: {printable(reason[:300])}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UnreadableMetadata(f"it holds {_shown(data)}, not keys with values")
    return _checked(data)


def _checked(data: dict[Any, Any]) -> dict[str, Any]:
    _check_bounds(data)
    try:
        _Metadata.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, details["loc"]))
        raise UnreadableMetadata(f"{printable(key)}: {details['msg']}, found {_shown(details['input'])}") from None
    return {key: value for key, value in data.items() if value is not None}  # as if it were not there


def simple_metadata_of(text: str) -> dict[str, Any] | None:
    """As `metadata_of` in a quarter of the time, for text of which every line can be read by itself: numbers, words,
    digests, true and false, and mappings of these. None if there is anything else.

    Raises:
        UnreadableMetadata: something in it is not what a run writes there.
    """
    data: dict[str, Any] = {}
    inner: dict[str, Any] | None = None  # the mapping that the previous line is in, or has begun
    for line in text.removesuffix("\n").split("\n"):
        match = _SIMPLE_LINE.fullmatch(line)
        if match is None or match["key"].lower() in _NOT_TEXT or _has_other_meaning(match["word"]):
            return None
        container = inner if match["indent"] else data
        if container is None:
            return None
        if match["value"] is None:
            if match["indent"] or inner == {}:
                return None
            inner = container[match["key"]] = {}
            continue
        if not match["indent"]:
            if inner == {}:
                return None
            inner = None
        container[match["key"]] = _simple_value(match)
    return None if inner == {} else _checked(data)


def _has_other_meaning(word: str | None) -> bool:
    """Whether YAML reads a word as something other than text, true or false."""
    return word is not None and word not in _BOOLEANS and word.lower() in _NOT_TEXT


def _simple_value(match: re.Match[str]) -> Any:
    if match["int"] is not None:
        return int(match["int"])
    if match["float"] is not None:
        return float(match["float"])
    if match["quoted"] is not None:
        return match["quoted"]
    return _BOOLEANS.get(match["value"], match["value"])


# A key, at most two spaces from the margin, and its value if that is no mapping. A digest whose letters are all `b` or
# `e` might be a number.
_SIMPLE_LINE = re.compile(
    r"""(?P<indent>\ \ )? (?P<key>[A-Za-z](?:[\w/. ]*\w)?) :
    (?:\ (?P<value> (?P<int>-?(?:0|[1-9][0-9]{0,17})) | (?P<float>-?[0-9]+\.[0-9]+(?:e[+-][0-9]+)?)
    | '(?P<quoted>[\x20-\x26\x28-\x7e]*)' | (?P<word>[A-Za-z](?:[\w/.\ ]*\w)?)
    | (?=[0-9b-e]*[acdf])[0-9a-f]{7,64} ))?""",
    re.VERBOSE | re.ASCII,
)
_BOOLEANS = {"true": True, "false": False}
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "null", *_BOOLEANS}  # in YAML 1.1


def _check_bounds(data: dict[Any, Any]) -> None:
    """Raise if the data is endless, or holds what no file or table could take. Works without recursion."""
    if len(data) > MAX_KEYS:
        raise UnreadableMetadata(f"it has {len(data):,} keys; no run writes more than {MAX_KEYS}")
    count = 0
    to_check: list[tuple[Any, int]] = [(data, 0)]
    while to_check:
        container, depth = to_check.pop()
        count += len(container)
        if count > MAX_VALUES or depth > MAX_DEPTH:
            size = f"more than {MAX_VALUES:,} values" if count > MAX_VALUES else f"values more than {MAX_DEPTH} deep"
            raise UnreadableMetadata(f"it expands to {size}")
        values = container
        if isinstance(container, dict):
            for key in container:
                _check_key(key, depth)
            values = container.values()
        for value in values:
            if isinstance(value, (dict, list, tuple, set)):
                to_check.append((value, depth + 1))
            else:
                _check_value(value)


def _check_key(key: object, depth: int) -> None:
    """Raise if the key is not text; at the top level it must be printable, as it names a column."""
    if not isinstance(key, str) or (depth == 0 and (printable(key) != key or len(key) > 1000)):
        raise UnreadableMetadata(f"the key {_shown(key)} is no plain text")
    _check_value(key)


def _check_value(value: object) -> None:
    if isinstance(value, str):
        if not value.isascii() and _HALVES.search(value):
            raise UnreadableMetadata(f"{_shown(value)} holds half of a character")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UnreadableMetadata(f"the number {_shown(value)} is too large")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list, tuple, set)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value):,}"
    words = repr(value) if not isinstance(value, int) or abs(value) < 10**50 else "of more than 50 digits"
    return printable(words if len(words) <= 60 else words[:57] + "...")
