"""Published weights: where a model's come from, whether this machine has them, and fetching those that it lacks.

timm and torchvision download when a model is built; on a compute node without internet that is too late. What is here
puts the very file that they will look for where they will look for it: in the cache of the Hugging Face hub for most
models of timm, in the folder `checkpoints` of torch's hub for torchvision and the rest of timm. The downloads are
theirs too: into a file of another name, checked, then renamed.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
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

if TYPE_CHECKING:
    from stitching.models.spec import ModelSpec

__all__ = ["HubFile", "UrlFile", "WeightsFile", "fetch", "weights_file"]

PATIENCE = 6  # seconds that a server has to answer at all, looking up its name included

ProgressCallback = Callable[[int, int, str], None]


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

    def found(self) -> Path | None:
        """The file in the cache that a model would be built from without a network."""
        for name in self.names:
            path = try_to_load_from_cache(self.repository, name, self.cache, self.revision)
            if isinstance(path, str):
                return Path(path)
        return None

    def origin(self) -> dict[str, str]:
        """Where `found` was fetched from, for whoever wants to fetch it again."""
        path = self.found()
        return {"repository": self.repository} | ({"revision": path.parent.name} if path else {})  # snapshots/REVISION/

    def status(self) -> int:
        return int(get_session().head(self.server, timeout=PATIENCE).status_code)

    def download(self) -> None:
        for name in self.names:
            try:
                hf_hub_download(self.repository, name, revision=self.revision, cache_dir=self.cache)
                return
            except LocalEntryNotFoundError:  # a kind of the next, but it means that the hub does not answer
                raise
            except EntryNotFoundError:
                continue
        raise FileNotFoundError(f"{self.repository} has none of {', '.join(self.names)}")


@dataclass(frozen=True)
class UrlFile:
    """Weights at a URL. Their hash is part of the name, which is what tells a whole file from a part of one."""

    url: str

    moved_by: ClassVar[str] = "TORCH_HOME"

    @property
    def server(self) -> str:
        return "{0.scheme}://{0.netloc}".format(urlsplit(self.url))

    @property
    def cache(self) -> str:
        return os.path.join(torch.hub.get_dir(), "checkpoints")

    def found(self) -> Path | None:
        """The file that a model would be built from without a network."""
        path = Path(self.cache, os.path.basename(urlsplit(self.url).path))
        return path if path.exists() else None

    def origin(self) -> dict[str, str]:
        """Where `found` was fetched from, for whoever wants to fetch it again."""
        return {"url": self.url}

    def status(self) -> int:
        request = urllib.request.Request(self.server, method="HEAD", headers={"User-Agent": "torch.hub"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def download(self) -> None:
        download_cached_file(self.url, check_hash=True, progress=not are_progress_bars_disabled(), cache_dir=self.cache)


WeightsFile = HubFile | UrlFile


def weights_file(spec: ModelSpec) -> WeightsFile | None:
    """Where the weights come from that building `spec` will load; None if it needs no published ones.

    Raises:
        UserError: nobody has published weights of this model.
    """
    return spec.source.weights_file(spec.name, spec.weights) if spec.takes_published else None


def fetch(specs: Iterable[ModelSpec], on_progress: ProgressCallback | None = None) -> None:
    """Make sure that the published weights of all `specs` are in this machine's caches, each fetched once.

    What is there is left as it is, without asking any server.

    Args:
        specs: models; those that need no published weights are passed over.
        on_progress: is called with how many of the missing files are here, how many there are, and what is fetched now.
            Without it the libraries draw their own progress bars.

    Raises:
        UserError: names all that cannot be had, each with the reason, and says what to do.
    """
    wanted: dict[WeightsFile, str] = {}  # the models' titles
    failures: dict[str, list[str]] = {}  # the models' titles, by the reason
    for spec in specs:
        try:
            source = weights_file(spec)
        except UserError as error:
            failures.setdefault(error.problem, []).append(spec.title)
            continue
        if source and not source.found():
            wanted.setdefault(source, spec.title)
    silent = {} if constants.HF_HUB_OFFLINE else _silent(wanted)
    with _no_bars() if on_progress else nullcontext():
        for number, (source, title) in enumerate(wanted.items()):
            if on_progress:
                on_progress(number, len(wanted), f"fetching the weights of {title} from {source.server}")
            if reason := silent.get(source.server) or _fetched(source):
                failures.setdefault(reason, []).append(title)
    if failures:
        lines = [f"  {', '.join(models)}: {reason}" for reason, models in failures.items()]
        raise UserError("\n".join(["pretrained weights cannot be had:", *lines]), do=_advice(wanted))


def _fetched(source: WeightsFile) -> str:
    """Download; returns why it cannot be, or nothing."""
    if constants.HF_HUB_OFFLINE:
        return f"not in {source.cache}, and HF_HUB_OFFLINE=1 forbids to fetch"
    try:
        source.download()
    except Exception as error:  # those of httpx, requests and hf_xet have nothing in common
        return f"{source.server}: {first_line(error)}"
    return ""


def _silent(sources: Iterable[WeightsFile]) -> dict[str, str]:
    """The servers that do not answer, and why. Asked all at once, as downloads are tried again and again for long."""
    answers: dict[str, str] = {}

    def ask(source: WeightsFile) -> None:
        try:
            status = source.status()
            answers[source.server] = f"{source.server} answers with status {status}" if status >= 500 else ""
        except Exception as error:  # as above
            answers[source.server] = f"{source.server} cannot be reached: {first_line(error)}"

    asked = {source.server: source for source in sources}
    # In threads that nobody waits for: nothing else bounds the time that it takes to look up a name.
    threads = [threading.Thread(target=ask, args=(source,), daemon=True) for source in asked.values()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE + 1
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {server: answers.get(server, f"{server} does not answer within {PATIENCE} s") for server in asked}


def _advice(sources: Iterable[WeightsFile]) -> str:
    caches = {source.cache: source.moved_by for source in sources}
    places = " and ".join(f"{cache} ({moved_by} moves it)" for cache, moved_by in caches.items())
    fetching = (
        "`stitching submit`, and `stitching train --smoke-test` for a single job, fetch them where they are called: do "
        f"that on a machine with internet. Jobs look for them in {places}, which must be on a disk that the nodes "
        "see. Or g"
    )
    return (fetching if places else "G") + "ive files of weights as ckp_path, or set pretrained: false."


@contextmanager
def _no_bars() -> Iterator[None]:
    """Progress bars of the libraries would stand in the middle of ours."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
