"""Published weights: the file that a model is built from is fetched, once, whole, or the reason is told soon."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import timm.models._builder
import timm.models._registry
import torch
import torchvision
from torch import nn
from weights_server import (
    COMMIT,
    SMALL,
    WeightsServer,
    as_pickle,
    as_safetensors,
    is_cached,
    repository_of,
    serving,
    use_caches,
    weights_of,
)

from stitching.config.errors import UserError
from stitching.config.yaml import Document
from stitching.models import prefetch
from stitching.models.building import build
from stitching.models.prefetch import HubFile, UrlFile, fetch, weights_file
from stitching.models.spec import ModelSpec
from stitching.runs.kinds import read_job
from stitching.training.run_record import weights_record

OTHER = "timm/test_vit.r160_in1k"
SQUEEZENET = "torchvision/squeezenet1_1"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A hub of our own, and empty caches."""
    with serving() as server:
        use_caches(tmp_path, monkeypatch, server.url)
        yield server


def publish(kind: str, server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a model's weights on the server in one of the ways that there are; returns the model's title."""
    title = SQUEEZENET if kind == "torchvision" else SMALL
    state = weights_of(title)
    if kind == "safetensors":
        server.put_on_hub(repository_of(title), "model.safetensors", as_safetensors(state))
        server.put_on_hub(repository_of(title), "pytorch_model.bin", b"nobody wants this one")
    elif kind == "pickle":
        server.put_on_hub(repository_of(title), "pytorch_model.bin", as_pickle(state))
    else:
        url = server.put(title.split("/")[1], as_pickle(state))
        if kind == "torchvision":
            weights = torchvision.models.get_model_weights(title.split("/")[1])["DEFAULT"]
            monkeypatch.setattr(weights.value, "url", url)
        else:
            known = timm.models._registry._model_pretrained_cfgs
            name = title.split("/")[1]
            monkeypatch.setitem(known, name, dataclasses.replace(known[name], url=url, hf_hub_id=None))
    return title


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a compute node: the hubs are told to be offline, and nothing can be connected to."""

    def refuse(*_: object) -> None:
        raise AssertionError("somebody wants to use the network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def assert_has(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


KINDS = ("safetensors", "pickle", "torchvision", "url")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fetched_is_what_the_model_is_built_from(kind: str, server, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    spec = ModelSpec.parse(title, pretrained=True)
    assert not is_cached(spec)
    told: list[tuple[int, int, str]] = []
    fetch(
        [spec, ModelSpec.parse(title, pretrained=True, num_classes=10), ModelSpec.parse(title)],
        lambda *a: told.append(a),
    )
    assert [each[:2] for each in told] == [(0, 1)]
    assert title in told[0][2]
    assert server.url in told[0][2]
    assert is_cached(spec)
    assert len(server.downloads) == 1
    asked = len(server.asked)
    fetch([spec])
    assert len(server.asked) == asked, "what is there is not asked for"
    go_offline(monkeypatch)
    assert_has(build(spec), weights_of(title))
    assert len(server.asked) == asked


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_weights_goes_on_record(kind: str, server, tmp_path, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    (tmp_path / "own.pt").write_bytes(b"weights")
    parts = [
        {"Subnet": {"model_name": title, "block_output": "layer1"}},
        {"Subnet": {"model_name": title, "pretrained": False, "block_input": "layer2"}},
        {"Subnet": {"model_name": "smallnet", "ckp_path": "own.pt"}},
    ]
    data = {"assembly": parts, "reference": {"Net": {"model_name": title}}, "train_config": {"dataset": "digits"}}
    job = read_job(Document(tmp_path / "config.yml", data))
    fetch([ModelSpec.parse(title, pretrained=True)])
    record = weights_record(job)
    own = record.pop(str(tmp_path / "own.pt"))
    assert own == {"sha256": hashlib.sha256(b"weights").hexdigest()}
    ((name, published),) = record.items()
    (path,) = server.downloads
    assert published.pop("sha256") == hashlib.sha256(server.files[path]).hexdigest()
    if kind in ("safetensors", "pickle"):
        file = {"safetensors": "model.safetensors", "pickle": "pytorch_model.bin"}[kind]
        assert (name, published) == (
            SMALL,
            {"repository": repository_of(SMALL), "revision": COMMIT, "tag": "r160_in1k", "file": file},
        )
    else:
        tag = {"torchvision": "IMAGENET1K_V1", "url": "r160_in1k"}[kind]
        file = path.removeprefix("/")
        assert published == {"url": server.url + path, "tag": tag, "file": file}
        assert name == (SMALL if kind == "url" else f"{SQUEEZENET}.IMAGENET1K_V1")


@pytest.mark.parametrize("kind", KINDS)
def test_building_fetches_too(kind: str, server, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    assert_has(build(ModelSpec.parse(title, pretrained=True)), weights_of(title))
    assert len(server.downloads) == 1


def test_what_needs_no_published_weights_is_passed_over(monkeypatch) -> None:
    go_offline(monkeypatch)
    specs = [
        ModelSpec.parse("local/smallnet", pretrained=True),
        ModelSpec.parse(SMALL),
        ModelSpec.parse(SMALL, pretrained=True, ckp_path="weights.pt"),
    ]
    fetch(specs)
    assert all(is_cached(spec) for spec in specs)


def test_every_model_of_timm_is_looked_for_where_timm_looks(monkeypatch) -> None:
    class Found(Exception):
        pass

    def resolve(*args: object, **kwargs: object) -> None:
        raise Found(timm.models._builder._resolve_pretrained_source(real(*args, **kwargs).to_dict()))

    real = timm.models._builder.resolve_pretrained_cfg
    monkeypatch.setattr(timm.models._builder, "resolve_pretrained_cfg", resolve)
    wrong = {}
    for name in timm.list_models(pretrained=True):
        with pytest.raises(Found) as found:
            timm.create_model(name, pretrained=True)
        kind, place = found.value.args[0]
        source = weights_file(ModelSpec("timm", name, pretrained=True))
        ours = ("hf-hub", source.repository) if isinstance(source, HubFile) else ("url", source.url)
        if ours != (kind, place):
            wrong[name] = (ours, place)
    wrong.pop("vitamin_xlarge_336.datacomp1b_clip", None)  # timm 1.0 builds it from the weights of another size
    assert not wrong


def test_every_url_has_a_hash_which_tells_half_a_file_from_a_whole_one() -> None:
    titles = [f"timm/{name}" for name in timm.list_models(pretrained=True)]
    titles += [f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)]
    sources = [weights_file(ModelSpec(*title.split("/"), pretrained=True)) for title in titles]
    urls = [source.url for source in sources if isinstance(source, UrlFile)]
    assert len(urls) >= 80
    assert not [url for url in urls if not torch.hub.HASH_REGEX.search(os.path.basename(url))]


def test_timm_reads_pickles_without_running_them() -> None:
    """As every version from the floor in pyproject.toml on does by default; 1.0.25 does not."""
    assert inspect.signature(timm.models.load_state_dict).parameters["weights_only"].default is True
    assert '"timm>=1.0.26"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_names_of_long_ago() -> None:
    old = weights_file(ModelSpec.parse("timm/tv_resnet34", pretrained=True))
    assert old == weights_file(ModelSpec.parse("timm/resnet34.tv_in1k", pretrained=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dies_leaves_nothing_that_is_loaded_later(kind: str, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the attempts of huggingface_hub
    title = publish(kind, server, monkeypatch)
    spec = ModelSpec.parse(title, pretrained=True)
    server.dies_at = 100_000
    with pytest.raises(UserError, match=f"{title}: {server.url}"):
        fetch([spec])
    assert not is_cached(spec)
    assert not [path for path in files_in(tmp_path) if path.stat().st_size > 1000]
    server.dies_at = None
    fetch([spec])
    go_offline(monkeypatch)
    assert_has(build(spec), weights_of(title))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_wants_a_login_is_not_taken_for_weights(kind: str, server, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    server.portal = True
    spec = ModelSpec.parse(title, pretrained=True)
    with pytest.raises(UserError, match="invalid hash" if kind in ("torchvision", "url") else "firewall and proxy"):
        fetch([spec])
    assert not is_cached(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_two_may_fetch_at_once(kind: str, server, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    spec = ModelSpec.parse(title, pretrained=True)
    together = threading.Barrier(4)

    def fetch_with_the_others() -> None:
        together.wait()
        fetch([spec])

    threads = [threading.Thread(target=fetch_with_the_others) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    go_offline(monkeypatch)
    assert_has(build(spec), weights_of(title))


def test_all_that_cannot_be_had_is_told_and_the_rest_is_fetched(server, monkeypatch) -> None:
    fine = publish("safetensors", server, monkeypatch)
    monkeypatch.setattr(
        torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"].value, "url", f"{server.url}/gone-01234567.pth"
    )
    server.put_on_hub(repository_of(OTHER), "README.md", b"no weights")
    titles = ("timm/test_efficientnet.r160_in1k", OTHER, SQUEEZENET, fine)
    with pytest.raises(UserError) as error:
        fetch([ModelSpec(*title.split("/"), pretrained=True) for title in (*titles, "timm/vit_base_resnet26d_224")])
    told = str(error.value).splitlines()
    assert told[0] == "cannot get pretrained weights:"
    for title, words in (
        ("timm/test_efficientnet.r160_in1k", "404"),
        (OTHER, "has none of model.safetensors, pytorch_model.bin"),
        (SQUEEZENET, "404"),
        ("timm/vit_base_resnet26d_224", "no published weights"),
    ):
        assert sum(line.startswith(f"  {title}: ") and words in line for line in told) == 1, told
    assert "ckp_path" in told[-1]
    assert is_cached(ModelSpec.parse(fine, pretrained=True))


@pytest.mark.parametrize("network", ["refused", "silent", "unknown name", "overloaded"])
def test_without_a_network_it_is_told_soon(network: str, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prefetch, "PATIENCE", 1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        if network == "silent":
            closed.listen()
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        if network == "unknown name":
            url = "http://hub.invalid"
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))  # as where DNS is not answered
        if network == "overloaded":
            url = server.url
            monkeypatch.setattr(HubFile, "status", lambda _: 503)
            monkeypatch.setattr(UrlFile, "status", lambda _: 503)
        use_caches(tmp_path, monkeypatch, url)
        monkeypatch.setattr(
            torchvision.models.get_model_weights("swin_t")["DEFAULT"].value, "url", f"{url}/swin-01234567.pth"
        )
        titles = ("timm/resnet18", "timm/resnet34", "timm/resnet50", "torchvision/swin_t")
        started = time.monotonic()
        with pytest.raises(UserError) as error:
            fetch([ModelSpec.parse(title, pretrained=True) for title in titles])
        assert time.monotonic() - started < 3
    told = str(error.value).splitlines()
    assert told[0] == "cannot get pretrained weights:"
    assert told[1].startswith(f"  {', '.join(titles)}: {url} ")
    assert (
        f"{tmp_path}/hf/hub (HF_HOME moves it) and {tmp_path}/torch/hub/checkpoints (TORCH_HOME moves it)" in told[-1]
    )
    assert "internet" in told[-1]
    assert "ckp_path" in told[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_offline_nobody_waits_for_a_network(kind: str, server, tmp_path, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    go_offline(monkeypatch)
    started = time.monotonic()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1") as error:
        build(ModelSpec.parse(title, pretrained=True))
    assert time.monotonic() - started < 1
    assert f"  {title}: not in {tmp_path}" in str(error.value)
    assert "`stitching submit`" in str(error.value)
    assert "on a disk that the nodes see" in str(error.value)
    assert not server.asked


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named(kind: str, server, monkeypatch) -> None:
    title = publish(kind, server, monkeypatch)
    spec = ModelSpec.parse(title, pretrained=True)
    fetch([spec])
    path = weights_file(spec).cached_path()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"weights of {title} cannot be loaded from {path}") as error:
        build(spec)
    assert "Remove the file" in str(error.value)
