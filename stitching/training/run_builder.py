"""From a job to a run: its network, losses, metrics, optimizer and schedule, checked before anything is trained."""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.cutting.cost import cost
from stitching.cutting.formats import Format
from stitching.models.building import normalization_note
from stitching.models.traced_models import first_model
from stitching.nets.build import BuildOptions
from stitching.nets.network import Network
from stitching.runs.folder import RunFolder
from stitching.similarity.least_squares import Fit, build_stitched_network, fit_of
from stitching.training.fit_adapters import Stitched, stitched_of
from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.job_checks import at_network
from stitching.training.job_data import TaskData, sample_of
from stitching.training.learner import Learner
from stitching.training.load_parts import load_checkpoints
from stitching.training.loop_context import LoopContext
from stitching.training.metrics import make_metrics
from stitching.training.network_outputs import HookedOutputs, try_outputs
from stitching.training.objectives import TrainingLoss
from stitching.training.optim import make_optimizer, try_training
from stitching.training.position import Position
from stitching.training.run import Run
from stitching.training.schedules import advance, cadence_of, make_scheduler
from stitching.training.scorer import Scorer, make_losses
from stitching.training.shared_prefixes import front_of

__all__ = ["build_network_of", "build_run"]


def build_run(
    job: Job, folder: RunFolder, context: LoopContext, whole_networks: FrozenNetworks
) -> tuple[Run, Stitched | None]:
    """The run of a job; and its network with the adapter to fit before the first step, if it has one.

    Args:
        job: of the run.
        folder: for its files.
        context: of the loop.
        whole_networks: get the networks that the run's is compared with and learns from.

    Raises:
        UserError: something in the job is wrong.
    """
    data = context.data
    network = build_network_of(job, data)
    network_cost = cost(network, data.image_shape)
    scorer = _scorer(job, network, context)
    try_outputs(network, scorer.hooked_outputs, data)
    notes: list[str] = [note for module in network.modules() for note in getattr(module, "notes", ())]
    if first := first_model(job.network):
        notes += normalization_note(first, *data.train[0].normalization)
    fit = _load_or_fit(job, network, data, notes)
    # A shared front computes no outputs inside this network, and has its model's own weights, not loaded ones.
    computes_all = bool(scorer.hooked_outputs.names or job.load_from or job.load_head_from)
    front = None if computes_all else front_of(network, job.train_config.seed)
    to_fit = stitched_of(network, fit, front, job.train_config.seed) if fit else None
    for piece in network.pieces[front.pieces if front else 0 :]:
        context.move_to_device(piece)
    position = _position(job, network, data)
    optimizer, scheduler = _optimizer_and_scheduler(job, network, position, context.device)
    if isinstance(scheduler, ReduceLROnPlateau):
        notes.append(f"ReduceLROnPlateau watches {job.monitor}")
    learner = Learner(job.train_config, context, network, front, scorer, optimizer, scheduler)
    run = Run(job, folder, context, learner, position, network_cost, notes=notes)
    _add_reference_and_teacher(run, whole_networks)
    return run, to_fit


def _add_reference_and_teacher(run: Run, whole_networks: FrozenNetworks) -> None:
    """Build the networks that the run's is compared with, and learns from."""
    job, classes = run.job, run.network.out_format.channels
    if job.reference is not None:
        with at("reference"):
            run.reference = whole_networks.add(job.reference, classes, "is compared with it")
    if job.objective is None or not job.objective.needs_teacher or run.only_tests:
        return
    with at("objective", job.objective.registered_name, "teacher"):
        assert job.teacher is not None, "the job's schema and the plan check it"
        run.teacher = whole_networks.add(job.teacher, classes, "learns from it")
        if first := first_model(job.teacher):
            run.notes += normalization_note(first, *run.context.data.train[0].normalization)


def build_network_of(job: Job, data: TaskData) -> Network:
    """The job's network for the images of `data`."""
    channels, height, width = data.image_shape
    options = BuildOptions(
        seed=job.train_config.seed,
        num_classes=data.train[0].num_classes if len(data.train) == 1 else None,
        task_classes=tuple(batches.num_classes for batches in data.train),
        class_token=job.reformat_options.class_token,
        frozen_norm=job.frozen_norm,
        adapter_init=job.adapter_init,
        norm_groups=1 if job.published else BuildOptions.norm_groups,
        unfrozen=job.unfrozen,
        sample=sample_of(job),
    )
    with at_network(job):
        return build_stitched_network(job.network, Format("img", channels, (height, width)), options)


def _scorer(job: Job, network: Network, context: LoopContext) -> Scorer:
    classes = [batches.num_classes for batches in context.data.train]
    with at("train_config"):
        losses, aux_losses = make_losses(job.train_config, classes)
    return Scorer(
        [TrainingLoss(loss, job.objective) for loss in losses],
        [loss.plain for loss in losses],
        [task.loss_scale for task in job.train_config.task_list],
        aux_losses,
        make_metrics(job.metrics, job.monitor),
        HookedOutputs(network, job),
        context.data.names,
        context.world,
    )


def _load_or_fit(job: Job, network: Network, data: TaskData, notes: list[str]) -> Fit | None:
    """Load the weights that the job starts from; returns the adapter that is still to be fitted."""
    fit = fit_of(network)
    if fit and len(data.train) > 1:
        raise UserError(f"least squares fits an adapter on one data set, and there are {len(data.train)}")
    untrained = fit.layer.weight.clone() if fit else None
    notes += load_checkpoints(network, job)
    if fit and untrained is not None and not torch.equal(untrained, fit.layer.weight):
        notes.append("the adapter is not fitted by least squares: load_from has its weights")
        return None
    return fit


def _position(job: Job, network: Network, data: TaskData) -> Position:
    has_trainable = any(parameter.requires_grad for parameter in network.parameters())
    config = job.train_config
    return Position(
        config.epochs, data.batches_per_epoch, config.max_steps, job.start_epoch,
        trains=has_trainable and not job.test_only,
    )  # fmt: skip


def _optimizer_and_scheduler(
    job: Job, network: Network, position: Position, device: torch.device
) -> tuple[Optimizer | None, LRScheduler | None]:
    """Both, tried to the end of the training; the schedule is advanced to the job's `start_epoch`."""
    config = job.train_config
    trainable = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not trainable:
        return None, None
    steps_between = position.batches_per_epoch if cadence_of(config) == "epochs" else 1
    steps_before = job.start_epoch * position.batches_per_epoch
    with at("train_config"):
        optimizer = make_optimizer(config, trainable)
        scheduler = make_scheduler(config, optimizer)
        try_training(config, math.ceil((steps_before + position.total_steps) / steps_between), device)
    for _ in range(steps_before // steps_between):
        advance(scheduler, None)
    return optimizer, scheduler
