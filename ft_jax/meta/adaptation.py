"""The inner loop that the meta-learners share: what adapts to a task, by which optimizer, in how many steps."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.method import Loss, Method
from ft_jax.core.params import Params, learns, map_with_path, matches, nearest, paths
from ft_jax.core.state import Batch, Context
from ft_jax.meta.episodes import one_of_episodes

SUGGESTED = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion")
STEADY = 1e-8
"""Added under the square root of an optimizer by name, whose second derivative is infinite at 0 without it."""

HEAD = ("model/head/kernel", "model/head/bias")
"""The leaves of a head, known before there is a model."""


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How a method adapts to a task; its fields are the options of every method that does.

    Attributes:
      name: of the method, whose numbers ``inner_rate`` and ``evaluation_steps`` it reads.
      steps: inner steps in training. Evaluation takes ``evaluation_steps`` of them, a number: any number of steps by
        one compiled evaluation.
      optimizer: of the inner steps: a constructor of optax by its name, or any function of ``learning_rate`` that
        gives a transformation whose update needs gradients alone.
      adapts: patterns of the paths that adapt, ``("*",)`` for all that learns.
      rematerialise: compute the inner steps again for the backward pass: memory for one of them in place of all.

    Raises:
      ValueError: fewer than one inner step, or an optimizer that optax doesn't have.
    """

    name: str
    steps: int
    optimizer: str | Callable[..., optax.GradientTransformation] = "sgd"
    adapts: tuple[str, ...] = ("*",)
    rematerialise: bool = False

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"{self.name} takes {self.steps} inner steps; give it at least 1")
        self.transform(0.1)

    def numbers(self, inner_rate: float, evaluation_steps: int | None) -> dict[str, float]:
        """The method's numbers for the inner loop.

        Raises:
          ValueError: a negative number of steps.
        """
        steps = self.steps if evaluation_steps is None else evaluation_steps
        if steps < 0:
            raise ValueError(f"{self.name} evaluates after {steps} steps; give it at least 0")
        return {"inner_rate": inner_rate, "evaluation_steps": steps}

    def transform(self, rate: Any) -> optax.GradientTransformation:
        """The inner optimizer at a rate."""
        if not isinstance(self.optimizer, str):
            return self.optimizer(learning_rate=rate)
        build = getattr(optax, self.optimizer, None)
        known = inspect.signature(build).parameters if callable(build) else {}
        if "learning_rate" not in known:
            raise ValueError(
                f"{self.name} has optimizer {self.optimizer!r}, which optax doesn't have; the nearest are "
                f"{nearest(self.optimizer, SUGGESTED)}"
            )
        return build(learning_rate=rate, **({"eps_root": STEADY} if "eps_root" in known else {}))

    def refuses(self, parts: Iterable[Method]) -> str | None:
        """`Method.refuses` of a method with this inner loop: beside one over episodes, or that freezes all that adapts.

        What learns is known before there is a model for the head's own leaves alone; patterns of other paths are
        looked at when the state is made or the first step is taken.

        Example:
          >>> frozen = Method("attention.ia3", trainable=lambda path, leaf: False)
          >>> Adaptation("meta.anil", 1, adapts=("model/head/*",)).refuses((frozen,)).partition(";")[0]
          'meta.anil adapts model/head/*, which attention.ia3 keeps from learning'
        """
        head = [path for path in HEAD if matches(path, self.adapts)]
        filters = {part.name: part.trainable for part in parts if part.trainable is not None}
        alone = all(pattern.startswith("model/head/") for pattern in self.adapts)
        if not alone or not head or any(learns(filters.values(), path, None) for path in head):
            return one_of_episodes(parts)
        keeps = min(name for name, keep in filters.items() if any(keep(path, None) is False for path in head))
        return (
            f"{self.name} adapts {', '.join(self.adapts)}, which {keeps} keeps from learning; let the head learn, such "
            f"as with transfer.head_only, or name leaves that learn in adapts, such as '*/{keeps}/*'"
        )

    def split(self, params: Params) -> tuple[Params, Params]:
        """What adapts and what stays, of one outline.

        Raises:
          ValueError: nothing adapts.
        """
        keep = map_with_path(lambda path, leaf: matches(path, self.adapts), params)
        if not any(jax.tree.leaves(keep)):
            raise ValueError(
                f"{self.name} adapts {', '.join(self.adapts)}, which fits nothing that learns; the nearest paths are "
                f"{nearest(self.adapts[0], paths(params))}"
            )
        adapting = jax.tree.map(lambda yes, leaf: leaf if yes else None, keep, params)
        return adapting, jax.tree.map(lambda yes, leaf: None if yes else leaf, keep, params)

    def adapt(self, gradient: Callable[[Params, Any], Params], start: Params, context: Context) -> Params:
        """`start` after the inner steps: the training's, or in an evaluation the number ``evaluation_steps`` of them.

        Args:
          gradient: ``(params, number of the step) -> gradients``.
          start: what adapts.
          context: of the task.
        """
        transform = self.transform(context.hyper[self.name]["inner_rate"])

        def step(carry, number):
            params, state = carry
            updates, state = transform.update(gradient(params, number), state, params)
            return (optax.apply_updates(params, updates), state), None

        step = jax.checkpoint(step) if self.rematerialise else step
        carry = (start, transform.init(start))
        if not context.train:
            steps = jnp.round(context.hyper[self.name]["evaluation_steps"]).astype(jnp.int32)
            return jax.lax.fori_loop(0, steps, lambda number, carry: step(carry, number)[0], carry)[0]
        # One step without a loop compiles in two thirds of the time.
        if self.steps == 1:
            return step(carry, 0)[0][0]
        return jax.lax.scan(step, carry, jnp.arange(self.steps))[0][0]


def total(loss: Loss, batch: Batch, context: Context) -> Callable[[Params, Any], jax.Array]:
    """``(params, number) -> sum of the loss's terms``, each inner step with dropout of its own."""

    def value(params, number):
        seen = context.replace(local_key=jax.random.fold_in(context.local_key, number + 1))
        return sum(loss(params, batch, seen)[0].values(), start=jnp.float32(0))

    return value


def difference(a: Params, b: Params) -> Params:
    """``a - b`` in float32."""
    return jax.tree.map(lambda a, b: a.astype(jnp.float32) - b.astype(jnp.float32), a, b)
