"""Scores: a ranking of a sweep's gaps from a few hundred images, without any training.

Two passes over the images, however many gaps there are: one over training images, which finds for every gap the affine
map from the source's output to the destination's input, and how alike the two are; one over images that were held out,
which tests how good the maps and the networks stitched with them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from stitching.config.errors import ErrorCollector, UserError
from stitching.config.job_config import JobSettings
from stitching.config.job_files import model_parts
from stitching.config.sweep import Sweep, folder_of, read_sweep
from stitching.config.yaml import Document
from stitching.cutting.formats import Format
from stitching.data.loading import Batches
from stitching.models.building import normalization_note
from stitching.models.prefetch import fetch
from stitching.models.traced_models import forget_models, model_spec
from stitching.nets.build import BuildOptions
from stitching.nets.network import Network, Part
from stitching.progress import ProgressCallback
from stitching.similarity.least_squares import build_stitched_network, fit_of
from stitching.similarity.measures import MinibatchCKA, Residuals, centred_gram, procrustes, r2
from stitching.sweeps.gaps_study import PART
from stitching.sweeps.networks import network_of
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.stitchers import LEAST_SQUARES, Declined
from stitching.sweeps.stitches import Stitch, make_stitches
from stitching.sweeps.studies import check_has_gaps
from stitching.sweeps.variants import Variant, make_variants
from stitching.training.devices import device_of
from stitching.training.distributed import ProcessGroup
from stitching.training.fit_adapters import (
    Stitched,
    add_moments,
    chosen_images,
    fronts_of,
    stitched_of,
)  # fmt: skip
from stitching.training.job_checks import Images
from stitching.training.shared_prefixes import Features, SharedPrefixes, front_of

__all__ = ["Score", "Scores", "score"]

PairGap = tuple[str, str, tuple[int, int]]  # source, destination, gap


@dataclass(frozen=True)
class Score:
    """What is known of one gap; numbers are None where it is declined.

    Attributes:
        cka, procrustes: of the source's output and the destination's input, on training images (`MinibatchCKA`,
            `procrustes`).
        r2: of the least-squares map that was fitted to the training images, on the held-out images (`similarity.r2`).
            Prefix tokens that the destination alone has are fitted and counted like its positions.
        accuracy: of the network stitched with that map, on the same.
        destination_accuracy: of the destination's own network, on the same.
        declined: why there is no such map.
    """

    source: str
    destination: str
    first_deleted_block: int
    last_deleted_block: int
    num_downsamples: int
    cka: float | None = None
    procrustes: float | None = None
    r2: float | None = None
    accuracy: float | None = None
    destination_accuracy: float | None = None
    declined: str | None = None


@dataclass(frozen=True)
class Scores:
    """The scores of a sweep, in the order of its pairs and gaps, and what they were made from."""

    rows: list[Score]
    dataset: str
    seed: int
    fit_images: int
    held_out: str  # what held-out images are: validation images if the sweep has them, else test images
    held_out_images: int
    folder: Path  # the sweep's
    notes: list[str]

    def table(self) -> pd.DataFrame:
        """A row for each gap."""
        made_from = {
            "dataset": self.dataset, "seed": self.seed, "fit_images": self.fit_images, "held_out": self.held_out,
            "held_out_images": self.held_out_images,
        }  # fmt: skip
        return pd.DataFrame([{**asdict(row), **made_from} for row in self.rows])


def score(
    document: Document,
    images: int,
    cache: PlanCache | None = None,
    on_progress: ProgressCallback = lambda *_: None,
) -> Scores:
    """Score every gap of a sweep over gaps; its stitchers do not matter.

    Args:
        document: the sweep's file.
        images: how many training images the maps are fitted to, and how many held-out images they are tried on; fewer
            if there are fewer. Which ones depends on the sweep's first seed. Held out are the sweep's validation
            images, so that gaps and adapters can be chosen by scores; where it has none, test images.
        cache: what earlier plans found out.
        on_progress: shows progress.

    Raises:
        UserError: the sweep does not fit the models it names, or its data or weights cannot be had.
    """
    check_has_gaps(document)
    mistakes = ErrorCollector()
    sweep = read_sweep(document)
    variants = make_variants(sweep, document, mistakes)
    mistakes.raise_all()
    first = variants[0]
    job = first.job
    train = chosen_images(job, images, "train")
    held = chosen_images(job, images, "val" if job.train_config.validation else "test")
    device = device_of(job, ProcessGroup())
    rows: dict[PairGap, Score] = {}
    to_measure: dict[PairGap, tuple[Stitch, Any]] = {}
    for stitch in make_stitches(sweep, first.images.shape, cache or PlanCache()):
        key = (stitch.source.title, stitch.dest.title, stitch.gap)
        if key not in rows:
            rows[key] = _score(stitch)
            try:
                to_measure[key] = stitch, _network_of(stitch, job, first.images)
            except Declined as declined:
                rows[key] = _score(stitch, declined=str(declined))
    try:
        measured = _build_all(list(to_measure.values()), job, first.images, device, on_progress)
        shared_prefixes = SharedPrefixes(fronts_of(measured)).to(device)
    finally:
        forget_models()
    _fit_all(measured, shared_prefixes, train, device, on_progress)
    _test_all([gap for gap in measured if gap.declined is None], shared_prefixes, held, device, on_progress)
    rows |= {key: gap.score() for key, gap in zip(to_measure, measured, strict=True)}
    (task,) = job.train_config.task_list
    return Scores(
        list(rows.values()), task.dataset, job.train_config.seed, train.num_images,
        "validation" if held.split == "val" else "test", held.num_images, folder_of(sweep, document.path),
        _notes(sweep, first, measured),
    )  # fmt: skip


class _Measured(Stitched):
    """The network stitched over one gap, and its measurements so far."""

    def __init__(self, stitch: Stitch, stitched: Stitched) -> None:
        super().__init__(stitched.network, stitched.fit, stitched.front, stitched.target_front)
        self.stitch = stitch
        self.declined: str | None = None
        self.cka = MinibatchCKA()
        self.residuals = Residuals(), Residuals()  # of positions, and of prefix tokens that the adapter makes
        self.right = self.right_alone = self.tested = 0

    @property
    def back(self) -> list[Part]:
        """The destination's pieces."""
        return self.network.pieces[self.fit.index + 1 :]

    def score(self) -> Score:
        if self.declined is not None:
            return _score(self.stitch, declined=self.declined)
        return _score(
            self.stitch,
            cka=self.cka.value, procrustes=procrustes([self.moments, *([self.tokens] if self.tokens.count else [])]),
            r2=r2(self.residuals),
            accuracy=self.right / self.tested, destination_accuracy=self.right_alone / self.tested,
        )  # fmt: skip


def _score(stitch: Stitch, **numbers: Any) -> Score:
    return Score(stitch.source.title, stitch.dest.title, *stitch.gap, stitch.num_downsamples, **numbers)


def _options(job: JobSettings, images: Images, *, meta: bool) -> BuildOptions:
    # What a sweep leaves unfrozen is scored as it is before training.
    return BuildOptions(
        seed=job.train_config.seed, num_classes=images.num_classes, class_token=job.reformat_options.class_token,
        meta=meta,
    )  # fmt: skip


def _network_of(stitch: Stitch, job: JobSettings, images: Images) -> Any:
    """The part that is the stitch's network. Raises `Declined` if least squares cannot bridge the gap."""
    part = PART.validate_python(network_of(replace(stitch, stitcher=LEAST_SQUARES)))
    try:
        build_stitched_network(part, Format.of("img", (1, *images.shape)), _options(job, images, meta=True))
    except UserError as error:
        raise Declined(error.problem) from None
    return part


def _build_all(
    parts: Sequence[tuple[Stitch, Any]],
    job: JobSettings,
    images: Images,
    device: torch.device,
    on_progress: ProgressCallback,
) -> list[_Measured]:
    """The networks with their weights. What several have in common is there once: fronts are shared prefixes."""
    pretrained = [p for p in model_parts(*(part for _, part in parts)) if p.wants_pretrained and not p.ckp_path]
    fetch(dict.fromkeys(model_spec(part) for part in pretrained), on_progress)
    options = _options(job, images, meta=False)
    backs: dict[Any, torch.nn.Module] = {}
    measured = []
    for number, (stitch, part) in enumerate(parts):
        on_progress(
            number, len(parts), f"building {stitch.source.title} to {stitch.dest.title}, gap {list(stitch.gap)}"
        )
        network = build_stitched_network(part, Format.of("img", (1, *images.shape)), options)
        fit, front = fit_of(network), front_of(network, options.seed)
        assert fit is not None
        for index, piece in enumerate(network.pieces):
            if front and index < front.pieces:
                piece.net = torch.nn.Identity()
            elif cut := getattr(piece.net, "cut_from", None):
                piece.net = backs.setdefault((cut, piece.net.sized_for), piece.net)
        measured.append(_Measured(stitch, stitched_of(network.to(device), fit, front, options.seed)))
    return measured


def _fit_all(
    measured: list[_Measured],
    shared_prefixes: SharedPrefixes,
    batches: Batches,
    device: torch.device,
    on_progress: ProgressCallback,
) -> None:
    """Find every network's map, and how alike what it maps and what it maps to are."""

    def compare(pairs: list[tuple[Tensor, Tensor]]) -> None:
        grams = {id(x): x for pair in pairs for x in pair}  # what several gaps share is one tensor
        kernels = {key: centred_gram(x) for key, x in grams.items()}
        for gap, (x, y) in zip(measured, pairs, strict=True):
            gap.cka.add(kernels[id(x)], kernels[id(y)])

    add_moments(
        measured,
        shared_prefixes,
        batches,
        device,
        lambda done, total: on_progress(done, total, "batches of training images"),
        compare,
    )
    for number, gap in enumerate(measured):
        on_progress(number, len(measured), "solving for the maps")
        try:
            gap.solve()
        except UserError as error:
            gap.declined = error.problem


@torch.no_grad()
def _test_all(
    measured: list[_Measured],
    shared_prefixes: SharedPrefixes,
    batches: Batches,
    device: torch.device,
    on_progress: ProgressCallback,
) -> None:
    """Use every network's map on images that it was not fitted to."""
    fronts = fronts_of(measured)
    for number, (images, labels) in enumerate(batches.epoch(0)):
        on_progress(number, len(batches), "batches of test images")
        x, y = images.to(device), labels.to(device)
        features = shared_prefixes(x, fronts)
        alone = _right_alone(measured, features, y)
        for gap in measured:
            target, adapter = gap.target(features), gap.fit.piece
            mapped = adapter.net(adapter.before(gap.adapter_input(features)))
            pairs = gap.fit.output_rows(target, mapped), gap.fit.output_token_rows(target, mapped)
            for residuals, pair in zip(gap.residuals, pairs, strict=True):
                if pair:
                    residuals.add(*pair)
            gap.right += _right(gap.network, gap.fit.index + 1, adapter.after(mapped), y)
            gap.right_alone += alone[_key_of_back(gap)]
            gap.tested += len(y)


def _key_of_back(gap: _Measured) -> tuple[int, ...]:
    return tuple(id(piece.net) for piece in gap.back)


def _right_alone(measured: Sequence[_Measured], features: Features, labels: Tensor) -> dict[tuple[int, ...], int]:
    """How often each destination is right by itself: its back on what its own front gave."""
    counts: dict[tuple[int, ...], int] = {}
    for gap in measured:
        key = _key_of_back(gap)
        if key not in counts:
            first = gap.back[0]
            x = first.after(first.net(gap.target(features)))  # without the conversion that a stitched network needs
            counts[key] = _right(gap.network, gap.fit.index + 2, x, labels)
    return counts


def _right(network: Network, first: int, x: Tensor, labels: Tensor) -> int:
    """How many of the labels the network hits with its pieces from number `first` on."""
    return int((network(x, first).argmax(1) == labels).sum())


def _notes(sweep: Sweep, variant: Variant, measured: Sequence[_Measured]) -> list[str]:
    """What a user should know of the scores."""
    notes = []
    if variant.values:
        values = ", ".join(f"{key}: {value}" for key, value in variant.values.items())
        notes.append(f"of the grid, only the first values are scored ({values})")
    if len(sweep.seeds or []) > 1:
        notes.append(f"of the seeds, only the first is used ({variant.seed})")
    for spec in dict.fromkeys(front.spec for front in fronts_of(measured)):
        notes += normalization_note(spec, *variant.normalization)
    return notes
