"""Published weights: where they come from, whether this machine has them, and downloading those that it lacks.

timm and torchvision download when a model is built, which is too late on a compute node without internet. `fetch` puts
the same files where they look for them: in the cache of the Hugging Face hub for most models of timm, in the folder
`checkpoints` of torch's hub for torchvision and the rest of timm. It uses their own download functions, which write to
another name, check the file, then rename it.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
)
from timm.models._hub import download_cached_file

from stitching.config.errors import UserError, first_line
from stitching.config.model_sources import WeightsFile
from stitching.progress import ProgressCallback

if TYPE_CHECKING:
    from stitching.models.spec import ModelSpec

__all__ = ["HubFile", "ManualFile", "UrlFile", "fetch", "weights_file"]

PATIENCE = 6  # seconds that a server has to answer, name lookup included


@dataclass(frozen=True)
class HubFile:
    """Weights on the Hugging Face hub: the first of `names` that the repository has."""

    repository: str
    revision: str | None
    names: tuple[str, ...]

    moved_by: ClassVar[str] = "HF_HOME"

    @property
    def server(self) -> str:
        return constants.ENDPOINT

    @property
    def cache(self) -> str:
        return constants.HF_HUB_CACHE

    def cached_path(self) -> Path | None:
        for name in self.names:
            path = try_to_load_from_cache(self.repository, name, self.cache, self.revision)
            if isinstance(path, str):
                return Path(path)
        return None

    def origin(self) -> dict[str, str]:
        path = self.cached_path()
        return {"repository": self.repository} | ({"revision": path.parent.name} if path else {})  # snapshots/REVISION/

    def status(self) -> int:
        return int(get_session().head(self.server, timeout=PATIENCE).status_code)

    def download(self) -> None:
        for name in self.names:
            try:
                hf_hub_download(self.repository, name, revision=self.revision, cache_dir=self.cache)
                return
            except LocalEntryNotFoundError:  # a subclass of the next, but it means that the hub does not answer
                raise
            except EntryNotFoundError:
                continue
        raise FileNotFoundError(f"{self.repository} has none of {', '.join(self.names)}")


@dataclass(frozen=True)
class UrlFile:
    """Weights at a URL. The name contains a hash, by which incomplete files are detected."""

    url: str

    moved_by: ClassVar[str] = "TORCH_HOME"

    @property
    def server(self) -> str:
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.url))

    @property
    def cache(self) -> str:
        return os.path.join(torch.hub.get_dir(), "checkpoints")

    def cached_path(self) -> Path | None:
        path = Path(self.cache, os.path.basename(urlsplit(self.url).path))
        return path if path.exists() else None

    def origin(self) -> dict[str, str]:
        return {"url": self.url}

    def status(self) -> int:
        request = urllib.request.Request(self.server, method="HEAD", headers={"User-Agent": "torch.hub"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def download(self) -> None:
        download_cached_file(self.url, check_hash=True, progress=not are_progress_bars_disabled(), cache_dir=self.cache)


@dataclass(frozen=True)
class ManualFile:
    """Weights that are published for people, not for programs: whoever has them puts them into the cache."""

    name: str  # below the cache
    server: str  # the page that has them

    moved_by: ClassVar[str] = "TORCH_HOME"

    @property
    def cache(self) -> str:
        return os.path.join(torch.hub.get_dir(), "checkpoints")

    def cached_path(self) -> Path | None:
        path = Path(self.cache, self.name)
        return path if path.exists() else None

    def origin(self) -> dict[str, str]:
        return {"page": self.server}

    def status(self) -> int:
        return 200  # a program has nothing to ask there

    def download(self) -> None:
        raise FileNotFoundError(f"nothing downloads its file by itself; get it there, as {Path(self.cache, self.name)}")


def weights_file(spec: ModelSpec) -> WeightsFile | None:
    """The published weights that building `spec` loads; None if it loads none.

    Raises:
        UserError: this model has no published weights.
    """
    return spec.source.weights_file(spec.name, spec.weights) if spec.takes_published else None


def fetch(specs: Iterable[ModelSpec], on_progress: ProgressCallback | None = None) -> None:
    """Make sure that the published weights of all `specs` are in this machine's caches; download missing files.

    No server is asked about files that are in the caches.

    Args:
        specs: models; those that need no published weights are skipped.
        on_progress: called with the number of files done, the number of missing files, and the current download.
            Without it the libraries draw their own progress bars.

    Raises:
        UserError: lists all weights that cannot be downloaded, each with the reason, and what to do.
    """
    missing: dict[WeightsFile, str] = {}  # the models' titles
    failures: dict[str, list[str]] = {}  # the models' titles, by the reason
    for spec in specs:
        try:
            source = weights_file(spec)
        except UserError as error:
            failures.setdefault(error.problem, []).append(spec.title)
            continue
        if source and not source.cached_path():
            missing.setdefault(source, spec.title)
    unreachable = {} if constants.HF_HUB_OFFLINE else _unreachable(missing)
    with _no_bars() if on_progress else nullcontext():
        for number, (source, title) in enumerate(missing.items()):
            if on_progress:
                on_progress(number, len(missing), f"fetching the weights of {title} from {source.server}")
            if reason := unreachable.get(source.server) or _download(source):
                failures.setdefault(reason, []).append(title)
    if failures:
        lines = [f"  {', '.join(models)}: {reason}" for reason, models in failures.items()]
        raise UserError("\n".join(["cannot get pretrained weights:", *lines]), do=_advice(missing))


def _download(source: WeightsFile) -> str:
    """Download; returns the reason if that fails, else an empty string."""
    if constants.HF_HUB_OFFLINE and not isinstance(source, ManualFile):
        return f"not in {source.cache}, and HF_HUB_OFFLINE=1 forbids downloads"
    try:
        source.download()
    except Exception as error:  # httpx, requests and hf_xet have no common base class
        return f"{source.server}: {first_line(error)}"
    return ""


def _unreachable(sources: Iterable[WeightsFile]) -> dict[str, str]:
    """The problem of each server, or "": all are asked in parallel, as the libraries retry downloads for long."""
    problems: dict[str, str] = {}

    def ask(source: WeightsFile) -> None:
        try:
            status = source.status()
            problems[source.server] = f"{source.server} answers with status {status}" if status >= 500 else ""
        except Exception as error:  # as in `_download`
            problems[source.server] = f"{source.server} cannot be reached: {first_line(error)}"

    servers = {source.server: source for source in sources}
    # Daemon threads, since nothing else bounds the time of a name lookup.
    threads = [threading.Thread(target=ask, args=(source,), daemon=True) for source in servers.values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {server: problems.get(server, f"{server} does not answer within {PATIENCE} s") for server in servers}


def _advice(sources: Iterable[WeightsFile]) -> str:
    caches = {source.cache: source.moved_by for source in sources}
    folders = " and ".join(f"{cache} ({moved_by} moves it)" for cache, moved_by in caches.items())
    fetching = (
        "`stitching submit`, and `stitching train --smoke-test` for a single job, download them: run that "
        f"on a machine with internet. Jobs look for them in {folders}, which must be on a disk that the nodes "
        "see. Or s"
    )
    return (fetching if folders else "S") + "et ckp_path to files of weights, or set pretrained: false."


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off the libraries' progress bars, which would break ours."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
