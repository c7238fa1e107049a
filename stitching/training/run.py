"""One training: its network, optimizer, schedule, metrics, log, and a checkpoint from which it goes on exactly."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.cutting.cost import cost
from stitching.cutting.formats import Format
from stitching.data.loading import derive_seed
from stitching.models.building import normalization_note
from stitching.models.traced_models import first_model
from stitching.nets.build import BuildOptions
from stitching.nets.network import Network
from stitching.runs.causes import ERROR, OUT_OF_MEMORY
from stitching.runs.folder import RunFolder, Traces
from stitching.runs.identity import identity
from stitching.runs.step_log import StepLog
from stitching.similarity.least_squares import build_stitched_network, fit_of
from stitching.training.batch_norm import WholeBatchNorm
from stitching.training.checkpoints import load_weights, write_checkpoint
from stitching.training.distributed import ProcessGroup
from stitching.training.evaluation import reference_of
from stitching.training.failures import Diverged, cause_of, failure_reason, free_memory
from stitching.training.fit_adapters import stitched_of
from stitching.training.job_data import TaskData, sample_of
from stitching.training.losses import make_loss
from stitching.training.metrics import Averages, compared, make_metrics
from stitching.training.network_outputs import HookedOutputs, try_outputs
from stitching.training.optim import advance, make_optimizer, make_scheduler, try_training
from stitching.training.shared_prefixes import front_of

__all__ = ["Run"]


class Run:
    """One training of one network, a step at a time.

    Its place is `epoch` (from 1), `batch` (the next batch of that epoch) and `step` (steps made). Every random number
    of a step comes from (seed, step), so neither what else runs in the process nor a restart can change it.

    Where several processes train, each has a share of the batches, and all have the same losses, metrics and weights.
    """

    def __init__(self, job: Job, folder: RunFolder, data: TaskData, device: torch.device, world: ProcessGroup) -> None:
        self.job = job
        self.folder = folder
        self.data = data
        self.device = device
        self.world = world
        self.writes = world.is_first
        self.seed = job.train_config.seed
        self.identity = identity(job)
        self.log = StepLog()
        self.averages = Averages()
        self.epoch = job.start_epoch + 1
        self.batch = 0
        self.step = 0
        self.tested_initially = False
        self.epoch_seconds = 0.0
        self.seconds = 0.0  # its share of the loop's time, tests included, in all its starts
        self.failure: str | None = None
        self.cause = ERROR  # of the failure
        self.ended = False
        self.metadata: dict[str, Any] = {}  # as it was written when the run started
        self.traces: Traces = {}  # of the folder then
        self.digests: dict[str, str] = {}  # of the result's files as they were last written
        self.final: dict[str, float] = {}  # the averages of the newest epoch that was tested, by column

        self.network = network_of(job, data)
        self.cost = cost(self.network, data.image_shape)
        config = job.train_config
        with at("train_config"):
            classes = [batches.num_classes for batches in data.train]
            known = classes[0] if len(classes) == 1 else None
            self.loss = make_loss(config.loss_fn, config.loss_fn_args, known)
            self.test_loss = self.loss.plain
            self.aux_losses = []
            for i, term in enumerate(config.aux_losses):
                with at("aux_losses", i):
                    self.aux_losses.append(
                        (term.output, make_loss(term.loss_fn, term.loss_fn_args, known), term.weight)
                    )
        self.metrics = make_metrics(job.metrics)
        self.hooked_outputs = HookedOutputs(self.network, job)
        try_outputs(self.network, self.hooked_outputs, data)
        self.notes: list[str] = []  # for the log, once there is one
        if first := first_model(job.network):
            self.notes += normalization_note(first, *data.train[0].normalization)
        fit = fit_of(self.network)
        if fit and len(data.train) > 1:
            raise UserError(f"least squares fits an adapter on one data set, and there are {len(data.train)}")
        if job.load_from:
            fresh = fit.layer.weight.clone() if fit else None
            with at("load_from"):
                self.notes += load_weights(self.network, Path(job.load_from), strict=job.strict_load)
            if fit and fresh is not None and not torch.equal(fresh, fit.layer.weight):
                self.notes.append("the adapter is not fitted by least squares: load_from has its weights")
                fit = None

        # Outputs inside the network are only there when all of it is computed here, and a shared front has the
        # weights that its model came with, not those that were loaded over them.
        alone = bool(self.hooked_outputs.names or job.load_from)
        self.reference = reference_of(job)
        self.front = None if alone else front_of(self.network, self.seed)
        self.first_piece = self.front.pieces if self.front else 0
        self.to_fit = stitched_of(self.network, fit, self.front, self.seed) if fit else None
        for piece in self.network.pieces[self.first_piece :]:
            piece.to(device)
            if job.channels_last:
                piece.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainable = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        self.optimizer = self.scheduler = None
        self.has_trainable = bool(trainable)
        if trainable:
            with at("train_config"):
                self.optimizer = make_optimizer(config, trainable)
                self.scheduler = make_scheduler(config, self.optimizer)
                between = (
                    data.batches_per_epoch if self._cadence == "epochs" else 1
                )  # steps from one advance to the next
                before = job.start_epoch * data.batches_per_epoch
                try_training(config, math.ceil((before + self.total_steps) / between), device)
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.notes.append(f"ReduceLROnPlateau watches {job.monitor}")
            for _ in range(before // between):
                advance(self.scheduler, None)
        self.trained: nn.Module | None = None  # what of the network is computed here, while its gradients are needed
        self.batch_norm = WholeBatchNorm(self.network, world) if world.size > 1 else None
        if job.compile:
            self.network.compile()

    def join(self) -> None:
        """Be ready to train, with the weights as they are now; all processes must be there."""
        if self.world.size > 1 and not self.only_tests:
            pieces = nn.Sequential(*self.network.pieces[self.first_piece :])
            if self.job.compile:
                pieces.compile()
            self.trained = self.world.wrap(pieces)

    # ---------------------------------------------------------------- where it stands

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def only_tests(self) -> bool:
        """Whether there is nothing to train."""
        config = self.job.train_config
        return self.job.test_only or not self.has_trainable or config.epochs <= self.job.start_epoch

    @property
    def tests_first(self) -> bool:
        """Whether the network is still to be tested as it is before its first step."""
        return (self.only_tests or self.job.checkpoint_initial_model) and not self.tested_initially

    @property
    def finished(self) -> bool:
        if self.tests_first:
            return False
        if self.only_tests or self.epoch > self.job.train_config.epochs:
            return True
        return self.batch == 0 and self._steps_left == 0

    @property
    def batches_in_epoch(self) -> int:
        """How many batches the current epoch has for this run; `max_steps` may cut the last one short."""
        return min(self.data.batches_per_epoch, self.batch + self._steps_left)

    @property
    def total_steps(self) -> int:
        """How many steps the whole run has."""
        if self.only_tests:
            return 0
        all_of_them = max(0, self.job.train_config.epochs - self.job.start_epoch) * self.data.batches_per_epoch
        return min(all_of_them, self.job.train_config.max_steps or all_of_them)

    @property
    def _steps_left(self) -> int:
        limit = self.job.train_config.max_steps
        return self.data.batches_per_epoch if limit is None else limit - self.step

    @property
    def tests_now(self) -> bool:
        """Whether the epoch that was just trained is followed by a test."""
        last = self.epoch >= self.job.train_config.epochs or self._steps_left == 0
        return last or self.job.eval_checkpoints

    # ---------------------------------------------------------------- training

    def train_step(
        self, inputs: list[Tensor], labels: list[Tensor], *, data_seconds: float, front_seconds: float
    ) -> None:
        """One step on a batch: `inputs` are the images of each task, or what the shared front made of them."""
        assert self.optimizer is not None
        began = time.perf_counter()
        own = (self.world.rank,) if self.world.size > 1 else ()  # each process has other images to drop out of
        torch.manual_seed(derive_seed(self.seed, "step", self.step, *own))
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        row: dict[str, float] = {"Step": self.step + 1, "Epoch": self.epoch}
        with self._autocast():
            part, measured = self._losses_and_metrics(inputs, labels)
        (part * self.world.size).backward()  # the processes' gradients are averaged, and it is their sum that is wanted
        if limit := self.job.train_config.max_grad_norm:
            nn.utils.clip_grad_norm_([p for p in self.network.parameters() if p.requires_grad], limit)
        row["LR"] = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        row["Loss"], count, measured = self._of_all(part, sum(map(len, labels)), measured)
        if not math.isfinite(row["Loss"]):
            raise Diverged(
                f"diverged at step {self.step + 1}: the loss is {row['Loss']:g}",
                do="Try a smaller lr, a warm-up, or max_grad_norm.",
            )
        if self._cadence == "steps":
            advance(self.scheduler, row["Loss"])
        for name, (value, samples) in measured.items():
            row[name] = value / samples
            self.averages.add({name: value}, samples)
        self.averages.add({"Loss": row["Loss"] * count}, count)
        seconds = time.perf_counter() - began + front_seconds
        row |= {
            "Time/Data": data_seconds,
            "Time/Step": seconds,
            "Time/Img Per Sec": count / seconds,
        } | _memory(self.device)
        self.log.add(row)
        self.step += 1
        if self.job.verbose and self.step % self.job.print_freq == 0:
            self.say(f"epoch {self.epoch}, step {self.step}, loss {row['Loss']:.4f}, lr {row['LR']:.3g}")
        self.batch += 1
        self.epoch_seconds += seconds + data_seconds

    def test_batch(
        self, inputs: Tensor, labels: Tensor, task: int, averages: Averages, reference: Tensor | None = None
    ) -> None:
        """Add a test batch of one task to `averages`; with the reference's scores, what they have in common."""
        with torch.no_grad(), self._autocast():
            self.network.eval()
            part, measured = self._losses_and_metrics([inputs], [labels], task, reference)
        loss, count, measured = self._of_all(part, len(labels), measured)
        averages.add({self._prefixed("Loss", task): loss * count}, count)
        for name, (value, samples) in measured.items():
            averages.add({name: value}, samples)

    def close_epoch(self, tested: dict[str, float]) -> None:
        """End the epoch whose batches are all trained: its averages, the schedule, and what tests gave, by column."""
        means = self.averages.means()
        values = {f"Overall/Train {name}": value for name, value in means.items()}
        values |= tested
        self.log.extend_last(values | {"Time/Per Epoch": self.epoch_seconds})
        self.final = values if tested else self.final
        if self._cadence == "epochs":
            advance(self.scheduler, self._monitored(values))
        self.averages = Averages()
        self.epoch_seconds = 0.0
        self.epoch += 1
        self.batch = 0
        self._say_values(f"epoch {self.epoch - 1}", values)

    def add_initial_test(self, values: dict[str, float]) -> None:
        """The row of step 0: the network as it was before any training."""
        self.log.add({"Step": 0, "Epoch": 0, "Loss": math.nan, "LR": math.nan, **values})
        self.tested_initially = True
        self.final = values
        self._say_values("before training", values)

    def _say_values(self, moment: str, values: dict[str, float]) -> None:
        named = {name.removeprefix("Overall/"): value for name, value in values.items()}
        self.say(", ".join([moment, *(f"{name} {value:.4f}" for name, value in named.items())]))
        if broken := [name for name, value in named.items() if not math.isfinite(value)]:
            self.say(
                f"warning: {', '.join(broken)} not finite. Images with scores that are no finite numbers count as "
                "predicted wrong, and in agreement with no other network"
            )

    def _monitored(self, values: dict[str, float]) -> float:
        """What ReduceLROnPlateau watches, of what an epoch gave; of several tasks, the sum of their losses."""
        split, name = self.job.monitor.split()
        tasks = [""] if f"Overall/{split} {name}" in values else [f"{task}/" for task in self.data.names]
        return sum(values[f"Overall/{split} {task}{name}"] for task in tasks)

    def _losses_and_metrics(
        self, inputs: list[Tensor], labels: list[Tensor], only_task: int | None = None, reference: Tensor | None = None
    ) -> tuple[Tensor, dict[str, tuple[float, int]]]:
        """The sum of the tasks' losses, and each metric's sum and number of samples.

        Of several processes, each has its part of them; `_of_all` adds up.
        """
        total = torch.zeros((), device=self.device)
        measured: dict[str, tuple[float, int]] = {}
        tasks = range(len(inputs)) if only_task is None else [only_task]
        for task, x, y in zip(tasks, inputs, labels, strict=True):
            if self.batch_norm:
                self.batch_norm.counts = len(y) > 0
            trains = self.trained is not None and torch.is_grad_enabled()
            out: Any = self.trained(x) if trains else self.network(x, self.first_piece)  # type: ignore[misc]
            scores = (out[task] if isinstance(out, list) else out)[: len(y)]
            tests = only_task is not None
            loss = (self.test_loss if tests else self.loss).part(scores, y, self.world)
            for output, aux_loss, weight in () if tests else self.aux_losses:
                loss = loss + weight * aux_loss.part(self.hooked_outputs[output][: len(y)], y, self.world)
            total = total + loss
            if len(self.data.names) > 1 and only_task is None:
                whole = int(self.world.sums([len(y)])[0])
                measured[self._prefixed("Loss", task)] = (loss.item() * whole, len(y))
            for metric in self.metrics:
                seen = self.hooked_outputs[metric.output][: len(y)] if metric.output else scores
                for name, value in metric.sums(seen.detach(), y).items():
                    measured[self._prefixed(name, task)] = (value, len(y))
            if reference is not None:
                for name, value in compared(scores, reference[: len(y)]).items():
                    measured[name] = (value, len(y))
        return total, measured

    def _of_all(
        self, loss: Tensor, count: int, measured: dict[str, tuple[float, int]]
    ) -> tuple[float, int, dict[str, tuple[float, int]]]:
        """A batch's loss, number of samples and metrics, from the parts that all processes have."""
        parts = [loss.item(), count, *(number for pair in measured.values() for number in pair)]
        value, samples, *rest = self.world.sums(parts)
        pairs = zip(rest[::2], map(int, rest[1::2]), strict=True)
        return value, int(samples), dict(zip(measured, pairs, strict=True))

    def _prefixed(self, name: str, task: int) -> str:
        return f"{self.data.names[task]}/{name}" if len(self.data.names) > 1 else name

    @property
    def _cadence(self) -> str:
        args = self.job.train_config.lr_scheduler_args
        return args.cadence if args else "epochs"

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.job.precision == "bf16" else nullcontext()

    # ---------------------------------------------------------------- saving and going on

    def save(self, *, whole: bool = False) -> None:
        """Write the checkpoint. `whole` adds the frozen parts, for others to load from."""
        if not self.writes:
            return
        self.folder.check_traces(self.traces)
        state = {
            "identity": self.identity,
            "config": self.job.to_yaml(),
            "place": {
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "tested": self.tested_initially,
            },
            "epoch_seconds": self.epoch_seconds,
            "seconds": self.seconds,
            "model": self.network.state_dict() if whole else self.network.changing_state(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "averages": self.averages.state(),
            "rows": self.log.rows,
            "final": self.final,
        }
        write_checkpoint(self.folder, state)

    def save_result(self) -> None:
        """Write the dataframe as far as it goes."""
        if self.writes:
            self.folder.check_traces(self.traces)
            self.digests = self.log.save(self.folder.result)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same job, as `read_checkpoint` gives it.

        Raises:
            UserError: it does not hold what this version of the package resumes from.
        """
        try:
            self._restore(state)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if cause_of(error) == OUT_OF_MEMORY:  # nothing is wrong with the checkpoint
                raise
            raise UserError(
                f"the checkpoint of {self.name} does not hold what a run resumes from ({failure_reason(error)})",
                do="Another version of this package may have written it: start again with --overwrite.",
            ) from None
        self.say(f"resumed at epoch {self.epoch}, step {self.step}")

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"], strict=False)
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        place = state["place"]
        self.epoch, self.batch, self.step = place["epoch"], place["batch"], place["step"]
        self.tested_initially = place["tested"]
        self.epoch_seconds = state["epoch_seconds"]
        self.seconds = state.get("seconds", 0.0)
        self.averages = Averages(**state["averages"])
        self.log = StepLog(state["rows"])
        self.final = state["final"]

    def release(self) -> None:
        """Give back the memory of a run that has failed; what it was and how it ended stays known."""
        for name in ("network", "trained", "optimizer", "scheduler", "hooked_outputs", "to_fit", "batch_norm", "log"):
            self.__dict__.pop(name, None)
        free_memory()

    def say(self, words: str) -> None:
        """Add a line to the run's log. A full disk costs the line, and nothing of the run."""
        if not self.writes:
            return
        try:
            with open(self.folder.log, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {words}\n")
        except OSError as error:
            print(f"cannot write to {self.folder.log} ({error.strerror}): {words}", file=sys.stderr, flush=True)


def network_of(job: Job, data: TaskData) -> Network:
    """The job's network for the images of `data`."""
    channels, height, width = data.image_shape
    options = BuildOptions(
        seed=job.train_config.seed,
        num_classes=data.train[0].num_classes if len(data.train) == 1 else None,
        task_classes=tuple(batches.num_classes for batches in data.train),
        class_token=job.reformat_options.class_token,
        frozen_norm=job.frozen_norm,
        unfrozen=job.unfrozen,
        sample=sample_of(job),
    )
    with at(*(("model",) if job.model else ())):
        try:
            return build_stitched_network(job.network, Format("img", channels, (height, width)), options)
        except UserError as error:
            if not job.model and error.path[:1] == ("Assembly",):  # the older form has no such key
                error.path = ("assembly" if error.path[1:2] == ("parts",) else "head", *error.path[2:])
            raise


def _memory(device: torch.device) -> dict[str, float]:
    """Memory in GB: of this process, and the most that was taken on the GPU."""
    used = {"Proc Mem": psutil.Process().memory_info().rss / 1e9}
    if device.type == "cuda":
        used["GPU Mem"] = torch.cuda.max_memory_allocated(device) / 1e9
    return used
