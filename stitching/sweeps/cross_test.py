"""The study `cross_test`: the encoder of every fine-tuned network below the head of every one, tested on its data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stitching.config.bounds import PathText, Workers
from stitching.config.errors import ErrorCollector, UserError, at
from stitching.config.job_config import Job, Metric
from stitching.config.parts import PARTS, ModelFields
from stitching.config.schema import complaint, one_of, validated
from stitching.config.sweep import StudyKeys
from stitching.config.user_code import resolved_code
from stitching.config.yaml import Document, located
from stitching.models.weights import load_weights
from stitching.progress import ProgressCallback
from stitching.runs.identity import file_digest, part_digest
from stitching.runs.kinds import kind_of
from stitching.sweeps.fine_tuned import FineTuned, FineTunedEntry, read_fine_tuned
from stitching.sweeps.grid_study import folder_of_study
from stitching.sweeps.plan import Plan, PlannedRun, check_names
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import STUDIES, Study
from stitching.sweeps.variants import tested_settings
from stitching.training.job_checks import images_of, meta_network
from stitching.training.load_parts import head_keys, with_classes

__all__ = ["CrossRun", "CrossTestStudy", "CrossTestSweep"]

UNTUNED = "untuned"
_OF_DATA = ("dataset", "tasks")  # keys of train_config that a cross test cannot override


class CrossTestSweep(StudyKeys):
    """A cross test: fine-tuned networks, of which every encoder is tested with every head."""

    ft_configs: Annotated[list[one_of(text=PathText, mapping=FineTunedEntry)], Field(min_length=1)]  # type: ignore[valid-type]
    """The configs of the trainings, each as a path or as `{config: ..., checkpoint: ..., name: ...}`."""
    untuned: bool = True
    """Also test the encoders as they were before fine-tuning."""
    data_path: PathText | None = None
    """Folder of the data sets, instead of that of each training."""
    train_config: dict[str, Any] = {}
    """Keys of `train_config` that override those of the trainings, such as `batch_size`."""
    metrics: list[Metric] | None = None
    """Metrics, instead of those of the trainings."""
    workers: Workers | None = None
    """As in a job."""
    device: str | None = None
    """As in a job."""
    deterministic: bool | None = None
    """As in a job."""
    precision: Literal["fp32", "bf16"] | None = None
    """As in a job."""
    channels_last: bool | None = None
    """As in a job."""

    @model_validator(mode="after")
    def _trains_nothing(self) -> Self:
        for key in ("seeds", "grid"):
            if getattr(self, key):
                raise complaint(f"a cross test trains nothing, so it has no {key}", key=key)
        for key in _OF_DATA:
            if key in self.train_config:
                raise complaint(f"`{key}` is given by each of ft_configs", key="train_config")
        return self


_OVERRIDDEN = ("data_path", "metrics", "workers", "device", "deterministic", "precision", "channels_last")


@dataclass(frozen=True)
class _Encoder:
    """The parts of a network before its head, fine-tuned or as they were before."""

    name: str
    network: FineTuned
    load_from: str | None
    strict_load: bool = True


@dataclass(frozen=True, kw_only=True)
class CrossRun(PlannedRun):
    """The test of one encoder with one head."""

    encoder: str
    head: str
    dataset: str

    @property
    def only_tests(self) -> bool:
        return True

    @property
    def subject(self) -> dict[str, Any]:
        return {"study": "cross_test", "encoder": self.encoder, "head": self.head, "dataset": self.dataset}

    @property
    def row(self) -> dict[str, str]:
        return {"encoder": self.encoder, "head": self.head, "data set": self.dataset}

    @property
    def starts_from(self) -> str:
        return ""  # a pack is of one data set, whatever the encoders

    @property
    def pace_key(self) -> tuple[str, ...]:
        return self.dataset, str(self.cost.macs if self.cost else "")

    def metadata(self, arch: str) -> dict[str, Any]:
        costs = {"macs": self.cost.macs} if self.cost else {}
        return {"name": self.name, "arch": arch, **self.subject, "seed": self.seed, **costs}

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.subject, **super().as_json()}


@STUDIES.register("cross_test")
class CrossTestStudy(Study):
    """Every run is a job that only tests: a network of one config's parts and another's head."""

    marks = ("ft_configs",)
    schema = CrossTestSweep

    def plan(self, document: Document, on_progress: ProgressCallback, cache: PlanCache) -> Plan:
        sweep = validated(CrossTestSweep, document)
        networks = _networks(sweep, document, cache)
        encoders = [_Encoder(network.name, network, network.checkpoint) for network in networks]
        encoders += _untuned(networks) if sweep.untuned else []
        mistakes = ErrorCollector()
        runs: list[CrossRun] = []
        for number, (encoder, head) in enumerate((encoder, head) for encoder in encoders for head in networks):
            on_progress(number, len(encoders) * len(networks), f"{encoder.name} with the head of {head.name}")
            with mistakes.collect():
                runs.append(_run(document.path.stem, encoder, head, cache))
        mistakes.raise_all()
        check_names(runs)
        return Plan(document.path.stem, folder_of_study(sweep, document), runs)

    def folder(self, document: Document) -> Path:
        return folder_of_study(validated(CrossTestSweep, document), document)


def _networks(sweep: CrossTestSweep, document: Document, cache: PlanCache) -> list[FineTuned]:
    """The fine-tuned networks, each with a name of its own; raises for everything that is wrong with them at once."""
    changes = dict(_changes(sweep, document))
    plugins = [resolved_code(name, document.folder_of(("plugins", i))) for i, name in enumerate(sweep.plugins)]
    mistakes = ErrorCollector()
    networks: list[FineTuned] = []
    for i, written in enumerate(sweep.ft_configs):
        entry = FineTunedEntry(config=written) if isinstance(written, str) else written
        with mistakes.collect(), located(document), at("ft_configs", i):
            network = read_fine_tuned(entry, document.folder_of(("ft_configs", i)), changes)
            network.job.plugins[:0] = plugins
            if network.name in (UNTUNED, *(other.name for other in networks)):
                raise UserError(
                    f"another network is called {network.name!r}", do="Name it: `{config: ..., name: ...}`."
                )
            networks.append(network)
            _check(network, cache)
    mistakes.raise_all()
    return networks


def _check(network: FineTuned, cache: PlanCache) -> None:
    """Raise if a fine-tuned network cannot be built, or its checkpoint is of another one."""
    job = network.job.model_copy(update={"load_from": None, "resume_from": None})
    with located(network.document):
        kind_of(job).check(job, cache.get)
    images = images_of(job)

    def try_to_load() -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is copied on the meta device
            load_weights(
                meta_network(job, images), network.checkpoint, f"the network of {network.document.path}", do=None
            )
        return True

    cache.get(("fits", file_digest(network.checkpoint), *_network_key(job)), try_to_load)


def _changes(sweep: CrossTestSweep, document: Document) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The job keys that the cross test overrides, with their values and places."""

    def place(*keys: str) -> str:
        return document.locations.get(keys, str(document.path))

    for key in _OVERRIDDEN:
        if document.data.get(key) is not None:
            value = document.data[key]
            if key == "data_path":
                value = str(document.folder_of((key,)) / Path(value).expanduser())
            yield key, (value, place(key))
    for key, value in sweep.train_config.items():
        yield f"train_config.{key}", (value, place("train_config", key))


def _untuned(networks: Sequence[FineTuned]) -> list[_Encoder]:
    """The encoders before fine-tuning, each different one once, called after the first network that has it."""
    encoders: dict[tuple[object, ...], _Encoder] = {}
    for network in networks:
        job, name = network.job, f"{UNTUNED}-{network.name}" if encoders else UNTUNED
        encoder = list(network.encoder) if network.head else [with_classes(network.encoder[0], 1)]
        parts = part_digest(PARTS["Assembly"](parts=encoder))  # type: ignore[call-arg]
        seed = None if _is_trained(network) else job.train_config.seed
        key = parts, job.load_from, job.strict_load, _class_token(network), seed
        encoders.setdefault(key, _Encoder(name, network, job.load_from, job.strict_load))
    return list(encoders.values())


def _is_trained(network: FineTuned) -> bool:
    """Whether nothing in an encoder before fine-tuning is random, so that its seed makes no difference."""
    given = [isinstance(part, ModelFields) and (part.wants_pretrained or part.ckp_path) for part in network.encoder]
    return all(given) or bool(network.job.load_from and network.job.strict_load)


def _class_token(network: FineTuned) -> str:
    own = network.assembly.reformat_options if network.assembly else None
    return (own or network.job.reformat_options).class_token


def _run(sweep: str, encoder: _Encoder, head: FineTuned, cache: PlanCache) -> CrossRun:
    """One test; declined if the two do not fit. Raises if an encoder cannot be built with its own head."""
    job = _job(encoder, head)
    kind = kind_of(job)
    cost = declined = None
    try:
        if (encoder.network.head is None) != (head.head is None):
            raise UserError("one of them is a whole model with its classifier, the other has a head of its own")
        cost = kind.check(job, cache.get)
        declined = _misfit(encoder, head, job, cache)
    except UserError as error:
        if encoder.network is head:
            raise head.document.locate(error) from None
        declined = error.problem
    return CrossRun(
        name=f"{kind.name}-{sweep}-encoder-{encoder.name}-head-{head.name}", seed=job.train_config.seed,
        encoder=encoder.name, head=head.name, dataset=job.train_config.task_list[0].dataset, cost=cost,
        job=None if declined else job, identity=None if declined else kind.identity(job), declined=declined,
    )  # fmt: skip


def _job(encoder: _Encoder, head: FineTuned) -> Job:
    """The test of an encoder with a head: everything but the network is as in the training of the head."""
    network = encoder.network
    settings = tested_settings(head.job)
    is_tuned = encoder.load_from == network.checkpoint  # all weights are in the two checkpoints
    settings["train_config"].seed = (head if is_tuned else network).job.train_config.seed
    settings["plugins"] = list(dict.fromkeys([*network.job.plugins, *head.job.plugins]))
    parts = list(network.encoder)
    if network.head is None:
        parts = [with_classes(parts[0], sum(images_of(head.job).classes))]
    assembly = PARTS["Assembly"](
        parts=parts, head=head.head if network.head else None,
        num_classes=head.assembly.num_classes if head.assembly else None,
        reformat_options=network.assembly.reformat_options if network.assembly else None,
    )  # type: ignore[call-arg]  # fmt: skip
    return Job(
        model=assembly, reformat_options=network.job.reformat_options, load_from=encoder.load_from,
        strict_load=encoder.strict_load, load_head_from=head.checkpoint, **settings,
    )  # fmt: skip


def _misfit(encoder: _Encoder, head: FineTuned, job: Job, cache: PlanCache) -> str | None:
    """Why the weights of an encoder and a head do not fit into the network of both; None if they do."""
    shapes, own = _shapes(job, cache)
    of_encoder, _ = _shapes(_job(encoder, encoder.network), cache)
    of_head, theirs = _shapes(_job(_Encoder(head.name, head, None), head), cache)
    if encoder.network.head is None:
        theirs = own  # the classifiers of whole models go by their names, other heads by their place
    trained_heads = {key: of_head.get(other) for key, other in zip(own, theirs, strict=False)}
    for key, shape in shapes.items():
        trained = trained_heads.get(key) if key in own else of_encoder.get(key)
        if trained != shape:
            what = f"the head of {head.name}" if key in own else f"the encoder {encoder.name}"
            return f"{what} has {key} of the shape {trained}; together with the other it is {shape}"
    return None


def _shapes(job: Job, cache: PlanCache) -> tuple[dict[str, list[int]], list[str]]:
    """The shapes of a network's weights by their keys, and the keys of its head."""
    images = images_of(job)

    def measured() -> list[Any]:
        state = meta_network(job, images).state_dict()
        return [{key: list(value.shape) for key, value in state.items()}, head_keys(job, images)]

    shapes, head = cache.get(("shapes", *_network_key(job)), measured)
    return shapes, head


def _network_key(job: Job) -> tuple[object, ...]:
    """What the shapes in a job's network depend on."""
    return images_of(job), job.reformat_options, part_digest(job.network)
