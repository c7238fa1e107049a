"""The folder of one run, and writing files whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from stitching.config.errors import UserError
from stitching.config.yaml import yaml_blocks
from stitching.runs.locks import Locked, file_lock, is_locked
from stitching.runs.metadata import UnreadableMetadata, metadata_of, simple_metadata_of, text_of

__all__ = ["BRIEF_KEYS", "FolderBusy", "RunFolder", "read_checked", "write_whole", "write_yaml"]

T = TypeVar("T")

_DIGEST = "# sha256 of all above: "
_REPAIR = "In a sweep, `stitching submit` writes it again; elsewhere, remove it."

# The keys of a run's state: a small part of metadata.yml.
BRIEF_KEYS = (
    "state", "identity", "failure", "cause", "control", "epoch", "steps", "first_step", "total_steps", "seconds",
    "device", "final", "digests", "code",
)  # fmt: skip
_BRIEF = re.compile(rf"^(?:{'|'.join(BRIEF_KEYS)}):.*\n(?:(?:[ -].*)?\n)*", re.MULTILINE)


class FolderBusy(UserError):
    """Another process is training in the folder."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object], *, previous: Path | None = None) -> None:
    """Write a temporary file, flush it to the disk and rename it: readers see the old file or the new one, whole.

    Args:
        path: of the file.
        write: writes it.
        previous: where the old file is moved; for a moment between two renames it is the only one.

    Raises:
        UserError: the disk is full, or the folder cannot be written to. The old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous:
            with suppress(FileNotFoundError):
                os.replace(path, previous)
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        # torch.save hides a full disk behind a RuntimeError of its zip writer
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path}: {reason}",
            do="The old file is unchanged. Make room, then try again: runs resume from their checkpoints.",
        ) from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as YAML, keys in their order, with a digest of it in a comment at the end."""
    text = yaml_blocks(data)
    write_whole(path, lambda file: file.write(f"{text}{_DIGEST}{_sha256(text)}\n".encode()))


def read_checked(path: Path, parse: Callable[[str], T]) -> T:
    """The content of a file that `write_yaml` wrote.

    Raises:
        UserError: the file cannot be read, is damaged or was edited; or `parse` raises `UnreadableMetadata`.
        FileNotFoundError: there is no such file.
    """
    try:
        text = text_of(path)
        content = parse(text)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file {path}") from None
    except (OSError, UnreadableMetadata) as error:
        raise UserError(f"cannot read {path}: {error}", do=_REPAIR) from None
    if not _fits_digest(text):
        raise UserError(
            f"cannot read {path}: it is damaged, or was edited; the digest in its last line does not match",
            do=_REPAIR,
        )
    return content


def _brief_metadata(text: str) -> dict[str, Any]:
    """The `BRIEF_KEYS` of a metadata.yml."""
    if _fits_digest(text):  # else all of it is parsed, to report what is wrong
        with suppress(UnreadableMetadata):  # an alias of something in another block
            brief_text = "".join(_BRIEF.findall(text))
            simple = simple_metadata_of(brief_text)
            return metadata_of(brief_text) if simple is None else simple
    return {key: value for key, value in metadata_of(text).items() if key in BRIEF_KEYS}


def _fits_digest(text: str) -> bool:
    content, mark, digest = text.rpartition(_DIGEST)
    return bool(mark) and digest == _sha256(content) + "\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Traces = dict[Path, int]  # files, and the inodes that they had


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files: `result.pkl`, and the others with the same suffix.

    A result called `result-7.pkl` has `result-7.parquet`, `checkpoint-7.pt`, `metadata-7.yml` and `log-7.txt` beside
    it, so that one folder holds several seeds.
    """

    path: Path
    metrics_output: str = "result.pkl"

    @classmethod
    def found_in(cls, path: Path) -> RunFolder:
        """The folder of a run whose config is not known, by the metadata file in it."""
        first = path / "metadata.yml"
        return cls.of_metadata(first if first.exists() else min(path.glob("metadata*.yml"), default=first))

    @classmethod
    def of_metadata(cls, path: Path) -> RunFolder:
        """The folder of the run whose metadata is the file `path`."""
        suffix = path.stem.removeprefix("metadata")
        stem = suffix[1:]  # of a result that is not called result
        if stem and any((path.parent / f"{stem}{ending}").exists() for ending in (".pkl", ".parquet")):
            return cls(path.parent, f"{stem}.pkl")
        return cls(path.parent, f"result{suffix}.pkl")

    @property
    def _suffix(self) -> str:
        stem = Path(self.metrics_output).stem
        return stem.removeprefix("result") if stem.startswith("result") else f"-{stem}"

    @property
    def result(self) -> Path:
        return self.path / self.metrics_output

    @property
    def steps(self) -> Path:
        """The dataframe of `result` in the file that commands read."""
        return self.result.with_suffix(".parquet")

    @property
    def checkpoint(self) -> Path:
        return self.path / f"checkpoint{self._suffix}.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The checkpoint before the newest."""
        return self.path / f"checkpoint{self._suffix}.previous.pt"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, damaged or not."""
        return self.checkpoint.exists() or self.previous_checkpoint.exists()

    @property
    def metadata(self) -> Path:
        return self.path / f"metadata{self._suffix}.yml"

    @property
    def log(self) -> Path:
        return self.path / f"log{self._suffix}.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here. The file stays; `train` writes the run's seed into it."""
        return self.path / f".run{self._suffix}.lock"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that a run writes, without its config."""
        return (self.result, self.steps, self.checkpoint, self.previous_checkpoint, self.metadata, self.log)

    def read_metadata(self, *, brief: bool = False) -> dict[str, Any] | None:
        """The content of metadata.yml; None before there is one.

        Args:
            brief: only `BRIEF_KEYS`; of thousands of runs, parsing the rest would take most of the time.

        Raises:
            UserError: the file cannot be read, is damaged or was edited, or holds what no run writes
                (`stitching.runs.metadata`).
        """
        try:
            return read_checked(self.metadata, _brief_metadata if brief else metadata_of)
        except FileNotFoundError:
            return None

    def traces(self) -> Traces:
        """The files of a run in training that must stay in its folder."""
        files = (self.lock, self.metadata, self.path / "config.yml")
        return {path: path.stat().st_ino for path in files if path.exists()}

    def check_traces(self, traces: Traces) -> None:
        """Raise `UserError` if one of the files is gone, or another process has created the folder again."""
        missing = sorted(path.name for path in traces if not path.exists())
        if missing or self.is_of_another(traces):
            raise UserError(
                f"{self.path} was removed while the run trained: {', '.join(missing) or 'its lock'} is gone",
                do="Start the run again if you still need it.",
            )

    def is_of_another(self, traces: Traces) -> bool:
        """Whether another process has created the folder again since `traces` were taken."""
        try:
            return self.lock in traces and self.lock.stat().st_ino != traces[self.lock]
        except OSError:
            return False

    def is_busy(self) -> bool:
        """Whether a process is training here; raises as `is_locked` does."""
        return is_locked(self.lock)

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Lock the folder for this process: the files that belong to this result.

        Raises:
            FolderBusy: another process holds the lock.
            UserError: the folder cannot be created or has no locks.
        """
        with ExitStack() as locks:
            try:
                locks.enter_context(file_lock(self.lock))
            except Locked:
                raise FolderBusy(
                    f"another process is training in {self.path}", do="Wait for it or stop it; nothing was changed."
                ) from None
            for leftover in self.path.glob(".*.tmp"):
                if leftover.name.startswith(tuple(f".{path.name}." for path in self.files)):
                    leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote
            yield self
