"""A server of weights on 127.0.0.1: as much of the Hugging Face hub's protocol as a download needs, and plain files."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save

from stitching.models.building import build
from stitching.models.prefetch import weights_file
from stitching.models.spec import ModelSpec


def is_cached(spec: ModelSpec) -> bool:
    """Whether a model can be built without a network."""
    file = weights_file(spec)
    return file is None or file.cached_path() is not None


SMALL = "timm/test_resnet.r160_in1k"  # half a million parameters
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class WeightsServer(ThreadingHTTPServer):
    """Serves `files`, by path; `/OWNER/REPOSITORY/resolve/main/NAME` is a file on the hub."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []  # method and path
        self.dies_at: int | None = None  # bytes of a file after which the connection is closed
        self.portal = False  # answers everything with a page of its own, as networks do that want a login first

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def downloads(self) -> list[str]:
        """The files that were asked for whole."""
        return [path for method, path in self.asked if method == "GET" and path in self.files]

    def put_on_hub(self, repository: str, name: str, data: bytes) -> None:
        self.files[f"/{repository}/resolve/main/{name}"] = data

    def put(self, stem: str, data: bytes) -> str:
        """A plain file whose name ends with its hash; returns the URL."""
        path = f"/{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        self.files[path] = data
        return self.url + path


class _Handler(BaseHTTPRequestHandler):
    server: WeightsServer

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        data = self.server.files.get(self.path, b"")
        at = self.server.dies_at
        self._answer(data if at is None else data[:at])

    def _answer(self, body: bytes | None) -> None:
        self.server.asked.append((self.command, self.path))
        if self.server.portal:
            self.send_response(200)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(b"<html>please log in")
            return
        data = self.server.files.get(self.path)
        if self.path == "/":
            data = b"a hub"
        self.send_response(200 if data is not None else 404)
        repository = self.path.partition("/resolve/")[0]
        if data is not None:
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        elif any(path.startswith(f"{repository}/resolve/") for path in self.server.files):
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body and data is not None:
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[WeightsServer]:
    """A server for the length of the body."""
    with WeightsServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def use_caches(folder: Path, monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    """Empty caches below `folder`, and the hub at `hub`: in this process, and in those that it starts."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", hub)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf" / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub + "/{repo_id}/resolve/{revision}/{filename}")


def weights_of(title: str, seed: int = 7) -> dict[str, torch.Tensor]:
    """Weights such as somebody might have published: not those that a model gets by itself."""
    return build(ModelSpec.parse(title), seed=seed).state_dict()


def as_safetensors(state: dict[str, torch.Tensor]) -> bytes:
    return save(state)


def as_pickle(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def repository_of(title: str) -> str:
    """Where timm has a model's weights."""
    return str(timm.get_pretrained_cfg(title.partition("/")[2]).hf_hub_id)  # type: ignore[union-attr]
