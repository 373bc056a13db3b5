"""An experiment as a value: model, data, method, optimizer, schedule, parallelism, evaluation, budget."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax.core import Loss, Optimizer, Outputs, optimizer
from ft_jax.core.decay import decay_mask
from ft_jax.core.params import nearest
from ft_jax.outside import check_name, printable
from ft_jax.training.composition import MethodLike
from ft_jax.training.metrics import MetricLike
from ft_jax.training.objective import objective_of
from ft_jax.training.parallel import Parallelism, as_parallelism
from ft_jax.training.rates import check_rates, rated
from ft_jax.training.stream import Feed, Stream

OPTIMIZERS = (
    *("adafactor", "adagrad", "adam", "adamw", "lamb", "lars", "lion", "nadamw", "radam", "rmsprop", "sgd"),
    *("ademamix", "adopt", "cocob", "dadapt_adamw", "dog", "dowg", "momo", "momo_adam", "muon", "prodigy"),
)
"""Names to suggest; any constructor of optax with a ``learning_rate`` will do."""

MASKS = ("mask", "weight_decay_mask")
"""What optax calls the parameters that weight decay acts on."""


@runtime_checkable
class ModelSpec(Protocol):
    """How to get a model: any frozen dataclass with this method."""

    def build(self, key: jax.Array) -> Any:
        """A model with ``apply(params, batch, key)``, ``params`` and ``tokenizer``; `key` draws what is new in it."""
        ...


@runtime_checkable
class DataSpec(Protocol):
    """How to get data: any frozen dataclass with this method."""

    def build(self, model: Any, feed: Feed) -> Stream:
        """The tasks to train on in turn, for `model` and in the batches that `feed` asks for."""
        ...


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """An optax optimizer, its numbers and the schedule of its learning rate.

    Attributes:
      name: of a constructor in optax or optax.contrib, such as ``"adamw"``, ``"lion"``, ``"muon"`` or ``"prodigy"``
        (whose rate is a factor of the one it finds: 1).
      learning_rate: the peak of the schedule.
      weight_decay: for constructors that take one; 0 where None.
      undecayed: shell patterns of the parameters that it leaves out, such as ``("*/bias",)``; None for biases, norms,
        tables of embeddings and all vectors (`ft_jax.core.decay.decays`), ``()`` for no parameter.
      max_norm: gradients are scaled down to this global norm first; None leaves them.
      schedule: of the learning rate after the warmup: ``"constant"``, or down to `final` by ``"linear"`` or
        ``"cosine"``.
      warmup: the share of all steps in which the rate rises linearly from 0.
      final: the share of the peak at which a schedule ends.
      restarts: how often a schedule begins anew after the warmup, each time as long; None for never.
      options: further arguments of the constructor, such as ``{"b2": 0.98}``. Fractions are numbers of the state, which
        trials may vary and controllers change; the rest, such as ``{"ns_steps": 5}``, is fixed.
      rates: shares of the learning rate by shell pattern of the parameters' paths, such as
        ``{"model/encoders/text/*": 0.1}``; the first that fits counts, and all else learns at the whole rate.
      half_precision: what makes small updates count on parameters that learn in half precision: ``"master"`` (a float32
        copy, `ft_jax.transfer.master_copies`), ``"stochastic"`` (`ft_jax.transfer.stochastic_rounding`), or ``"none"``.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float | None = None
    undecayed: tuple[str, ...] | None = None
    max_norm: float | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    final: float = 0.0
    restarts: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    half_precision: Literal["master", "stochastic", "none"] = "master"

    def check(self) -> None:
        """Raises ValueError on a number or name that can't be."""
        build = self._constructor()
        if not self.learning_rate >= 0 or math.isinf(self.learning_rate):
            raise ValueError(f"optimizer.learning_rate is {self.learning_rate}; give a finite rate of at least 0")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"optimizer.max_norm is {self.max_norm}; give a norm above 0, or None for no clipping")
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"optimizer.schedule is {printable(self.schedule)}; use 'constant', 'linear' or 'cosine'")
        if self.half_precision not in ("master", "stochastic", "none"):
            raise ValueError(
                f"optimizer.half_precision is {printable(self.half_precision)}; use 'master', 'stochastic' or 'none'"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optimizer.warmup is {self.warmup}; give a share of all steps from 0 to below 1")
        check_rates(self.rates)
        if self.restarts is not None and (self.restarts < 0 or self.schedule == "constant"):
            given = f"{self.restarts} of the schedule {printable(self.schedule)}"
            raise ValueError(f"optimizer.restarts is {given}; give 0 or more of 'linear' or 'cosine'")
        known = inspect.signature(build).parameters
        if self.weight_decay and "weight_decay" not in known:
            raise ValueError(
                f"optax.{self.name} takes no weight_decay, got {self.weight_decay}; use 'adamw' or leave it"
            )
        if self.undecayed is not None and not any(name in known for name in MASKS):
            raise ValueError(f"optax.{self.name} decays all parameters or none, so leave optimizer.undecayed out")
        for option in self.options:
            if option not in known:
                raise ValueError(
                    f"optax.{self.name} has no option {printable(option)}; the nearest are {nearest(option, known)}"
                )

    def build(self, steps: int) -> Optimizer:
        """The optimizer for a run of `steps` steps in all."""
        self.check()
        constructor = self._constructor()
        fixed = {name: value for name, value in self.options.items() if not _fraction(constructor, name, value)}
        numbers = {"learning_rate": self.learning_rate}
        numbers |= {name: value for name, value in self.options.items() if name not in fixed}
        if "weight_decay" in inspect.signature(constructor).parameters:
            numbers.setdefault("weight_decay", self.weight_decay or 0.0)
        mask = next((name for name in MASKS if name in inspect.signature(constructor).parameters), None)
        if mask is not None:
            fixed[mask] = decay_mask(self.undecayed)
        constructor = functools.partial(constructor, **fixed)
        flat = self.schedule == "constant" and not self.warmup
        schedule = None if flat else lambda step: self.share(step, steps, jnp)
        made = optimizer(constructor, schedule=schedule, max_norm=self.max_norm, **numbers)
        return rated(made, self.rates) if self.rates else made

    def share(self, step: Any, steps: int, library: Any = np) -> Any:
        """The share of the peak rate at a step: a linear rise, then the schedule down to `final` at the last step.

        Args:
          step: from 0.
          steps: of the whole run.
          library: numpy, or jax.numpy inside a step.

        Example:
          >>> spec = OptimizerSpec(schedule="linear", warmup=0.5)
          >>> [round(float(spec.share(step, 4)), 2) for step in range(4)]
          [0.5, 1.0, 1.0, 0.5]
        """
        rise = round(self.warmup * steps)
        done = library.clip((step - rise) / max(steps - rise, 1), 0.0, 1.0)
        if turn := self.restarts and max(steps - rise, 1) / (self.restarts + 1):
            done = library.where(done < 1, library.mod(step - rise, turn) / turn, 1.0)
        down = {
            "constant": library.ones_like(done),
            "linear": 1.0 + (self.final - 1.0) * done,
            "cosine": self.final + (1.0 - self.final) * 0.5 * (1.0 + library.cos(np.pi * done)),
        }[self.schedule]
        return library.where(step < rise, (step + 1.0) / max(rise, 1), down)

    def _constructor(self):
        for room in (optax, optax.contrib):
            build = getattr(room, self.name, None)
            if (
                inspect.isfunction(build)
                and not self.name.startswith("scale_by")
                and "learning_rate" in inspect.signature(build).parameters
            ):
                return build
        raise ValueError(
            f"optax has no optimizer {printable(self.name)}; the nearest are {nearest(self.name, OPTIMIZERS)}"
        )


def _fraction(constructor, name: str, value: Any) -> bool:
    """Whether an option is a number of the state: a float, or an int where the constructor's own is a float."""
    default = inspect.signature(constructor).parameters[name].default
    counts = isinstance(default, int)  # bools too
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and not counts)


@dataclasses.dataclass(frozen=True)
class EvaluationSpec:
    """When to evaluate, what to watch and what to keep.

    Every evaluation set of the task is measured before training, every `every` steps, at the end of each
    task and at the end.

    Attributes:
      every: steps between evaluations; None evaluates at the ends of tasks alone.
      metric: the metric to watch; ``"loss"`` or one of the experiment's metrics.
      mode: ``"max"`` if more of it is better, ``"min"`` if less.
      on: the evaluation set to watch; the first by default.
      keep_best: end with the state that the watched metric liked best.
      prequential: so many of the latest batches make up the evaluation set ``"prequential"``, each measured just before
        it was trained on (test, then train); None measures none. Metrics that are no means are not made of it.
      memories: batches of a task shown to methods when it ends, such as for EWC's Fisher information.
    """

    every: int | None = None
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    on: str | None = None
    keep_best: bool = False
    prequential: int | None = None
    memories: int = 8

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` is better than the best so far."""
        if math.isnan(value):
            return False
        return than is None or (value < than if self.mode == "min" else value > than)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much to train.

    Attributes:
      steps: updates per task; or
      epochs: passes over each task's examples.
      batch_size: examples of one update, over all devices and processes.
      accumulate: micro-batches an update is made of; memory falls, the result stays.
      most_batch_size: up to which controllers may raise the number ``budget.batch_size``, such as a plateau with
        ``number="budget.batch_size", factor=2.0``. An update then takes several batches of the data, the nearest whole
        number of them; each size is compiled once, and parameters, moments and memories stay. None leaves it fixed.
      patience: evaluations without a better watched metric after which a task is over; None for all steps.
      target: a value of the watched metric at which a task is over.
      until: metrics by name at which, all together, a task is over, in the words of `Experiment.expect`:
        ``{"accuracy": 0.9}`` at least, ``{"max_loss": 0.3}`` at most, on the task's own evaluation set or a named one,
        ``{"prequential/accuracy": 0.9}``.
      tasks: at most so many tasks of a stream; None for all that it gives.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    most_batch_size: int | None = None
    patience: int | None = None
    target: float | None = None
    until: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tasks: int | None = None

    def check(self) -> None:
        """Raises ValueError on a number that can't be."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"budget has steps={self.steps} and epochs={self.epochs}; give exactly one of them")
        for name, bound in {"target": self.target, **self.until}.items():
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"budget ends a task at {name} {bound}, which no metric reaches; give a finite number")
        for name in ("steps", "epochs", "batch_size", "accumulate", "patience", "tasks"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"budget.{name} is {value}; give a number above 0")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"budget.batch_size {self.batch_size} does not divide into {self.accumulate} micro-batches; "
                "change budget.batch_size or budget.accumulate"
            )
        most = self.most_batch_size
        if most is not None and (most < self.batch_size or most % self.batch_size):
            raise ValueError(
                f"budget.most_batch_size is {most}, which is not so many times budget.batch_size {self.batch_size}; "
                f"give a multiple such as {4 * self.batch_size}"
            )
        if most is not None and self.steps is None:
            raise ValueError(
                "budget.epochs counts passes at one batch size, and budget.most_batch_size lets it change; give "
                "budget.steps"
            )

    def steps_for(self, task: str, examples: int | None) -> int:
        """Updates on a task of so many examples."""
        if self.steps is not None:
            return self.steps
        if examples is None:
            raise ValueError(
                f"task {printable(task)} doesn't say how many examples it has; give budget.steps, not epochs"
            )
        return max(1, round(self.epochs * examples / self.batch_size))


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
    """What a run saves on its way.

    Attributes:
      every: steps between checkpoints, besides those at evaluations and at the ends of tasks.
      keep: how many of the newest to keep; with more than one, damage to the newest costs no more than its steps.
    """

    every: int | None = None
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a run is made of; a Python file that defines ``experiment`` is one.

    Attributes:
      name: also the name of its run folder.
      model: a `ModelSpec`.
      data: a `DataSpec`.
      method: outermost first, `Use` of the catalogue, methods, or functions ``Parts -> Method``.
      optimizer: see `OptimizerSpec`; any function ``steps -> Optimizer`` with a ``build`` does as well.
      budget: see `Budget`.
      evaluation: see `EvaluationSpec`.
      parallelism: ``"single"``, ``"pmap"`` or a `Mesh`.
      checkpoints: see `CheckpointSpec`.
      nonfinite: what becomes of a step whose loss or gradient is not finite: ``"stop"`` ends the run and writes the
        step's batch into its folder, ``"skip"`` leaves parameters and optimizer as they were and counts, ``"go_back"``
        takes the last checkpoint and goes on behind the batch.
      seed: of everything random: parameters, dropout, sampling and the data's order.
      hyper: numbers to change at the start, by ``"method.number"``.
      hyper_at: numbers to change after so many updates of the run, ``{200: {"optimizer.learning_rate": 1e-4}}``; of
        several trials one value for all. Nothing is compiled for it, and each is a line of the log.
      loss: ``model -> Loss``; by default what fits the model's head and the labels, cross-entropy for classes,
        see `ft_jax.training.objective.target_of`.
      predict: ``(outputs, batch) -> predictions`` for metrics and memories; see `ft_jax.training.evaluate`.
      metrics: by name, ``(predictions, batch) -> (sum, count)`` or more; by default what fits the labels.
      expect: the outcome that tests check, see `ft_jax.training.outcome`.
      log_every: steps between lines of ``metrics.jsonl``.
      out: the run folder; ``runs/<name>`` by default.
      doc: what it shows, for lists and the report.
    """

    name: str
    model: ModelSpec
    data: DataSpec
    method: tuple[MethodLike, ...] = ()
    optimizer: OptimizerSpec = OptimizerSpec()
    budget: Budget = Budget(steps=100)
    evaluation: EvaluationSpec = EvaluationSpec()
    parallelism: Parallelism | str = "single"
    checkpoints: CheckpointSpec = CheckpointSpec()
    nonfinite: Literal["stop", "skip", "go_back"] = "stop"
    seed: int = 0
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    hyper_at: Mapping[int, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    loss: Callable[[Any], Loss] | None = None
    predict: Callable[[Outputs, Mapping[str, Any]], Any] | None = None
    metrics: Mapping[str, MetricLike] | None = None
    expect: Mapping[str, float] = dataclasses.field(default_factory=dict)
    log_every: int = 10
    out: str | None = None
    doc: str = ""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out) if self.out else Path("runs") / self.name

    def loss_of(self, model, example: Mapping[str, Any]) -> Loss:
        """The plain loss, without any method's additions: the experiment's, or what fits the head and the labels."""
        return objective_of(model, example) if self.loss is None else self.loss(model)

    def check(self) -> None:
        """Raises ValueError, in one sentence, on what can be seen to be wrong without data or model."""
        if not self.name or any(part in ("", ".", "..") for part in self.name.split("/")):
            raise ValueError(
                f"experiment name {printable(self.name)} can't name a folder; use words joined by - _ or /"
            )
        check_name("experiment", self.name)
        if self.out is not None:
            check_name("the run folder", self.out)
        for name in self.metrics or ():
            check_name("metric", name)
        for field in ("model", "data"):
            if not hasattr(getattr(self, field), "build"):
                raise ValueError(
                    f"experiment.{field} is a {type(getattr(self, field)).__name__} without build(...); "
                    f"give a {field.capitalize()}Spec"
                )
        for spec in (self.model, self.data):
            if hasattr(spec, "check"):
                spec.check()
        if isinstance(self.optimizer, OptimizerSpec):
            self.optimizer.check()
        self.budget.check()
        as_parallelism(self.parallelism)
        if self.nonfinite not in ("stop", "skip", "go_back"):
            raise ValueError(f"nonfinite is {printable(self.nonfinite)}; use 'stop', 'skip' or 'go_back'")
        if self.evaluation.mode not in ("min", "max"):
            raise ValueError(f"evaluation.mode is {printable(self.evaluation.mode)}; use 'min' or 'max'")
        for name, value in (
            ("evaluation.every", self.evaluation.every),
            ("checkpoints.every", self.checkpoints.every),
            ("checkpoints.keep", self.checkpoints.keep),
            ("log_every", self.log_every),
            ("evaluation.prequential", self.evaluation.prequential),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give a number of at least 1")
