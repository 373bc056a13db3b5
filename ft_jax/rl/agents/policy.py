"""A model as a policy: from what an environment shows to logits of its actions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.outputs import Outputs
from ft_jax.core.state import Context
from ft_jax.rl.environments.environment import Environment, check, play


@dataclasses.dataclass(frozen=True)
class Policy:
    """A network whose logits choose among an environment's actions.

    A model that gives a vector a token chooses by the last one's.

    Attributes:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      environment: that it acts in.
    """

    apply: Callable
    environment: Environment

    def fields(self, observations: Array) -> dict[str, Array]:
        """Observations as a batch that the model reads."""
        return {self.environment.field: observations}

    def run(self, context: Context, params: Any, observations: Array) -> Outputs:
        """The outputs for observations, without dropout."""
        return context.replace(train=False).run(self.apply, params, self.fields(observations))

    def labels(self, actions: Int[Array, " batch"], outputs: Outputs) -> Int[Array, "batch ..."]:
        """Actions as labels for the outputs: where there is one a token, that of the last."""
        if outputs.hidden.ndim == 2:
            return actions
        return jnp.full((actions.shape[0], outputs.hidden.shape[1]), -1, jnp.int32).at[:, -1].set(actions)

    def outline(self, params: Any, rows: int = 1) -> Outputs:
        """Shapes of the outputs for so many observations.

        Raises:
          ValueError: the environment's observations or actions do not fit the model.
        """
        check(self.environment)
        name, shape = type(self.environment).__name__, self.environment.observation
        kind = jnp.int32 if self.environment.field == "input_ids" else jnp.float32
        batch = {self.environment.field: jax.ShapeDtypeStruct((rows, *shape), kind)}
        try:
            outputs = jax.eval_shape(lambda params, batch: self.apply(params, batch, None), params, batch)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{name} shows {shape}, which the model can't read: {error}") from error
        choices = None if outputs.unembedding is None else jax.eval_shape(last_logits, outputs).shape[-1]
        if choices != self.environment.actions:
            raise ValueError(
                f"{name} has {self.environment.actions} actions, but the model's head chooses among {choices}; build "
                f"the model with {self.environment.actions} classes"
            )
        return outputs

    def evaluated(self, context: Context, params: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """What one episode for every ``seed`` of a batch came to, the likeliest action taken each time.

        Returns:
          A batch of the episodes' first observations with ``return``, ``length`` and ``ended`` ``[batch]``, the last 1
          where the episode was over before its limit; the batch's own ``weights`` stay.
        """
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(0), seed))(batch["seed"])

        def act(observations, keys):
            return jnp.argmax(last_logits(self.run(context, params, observations)), axis=-1)

        total, length, ended = play(self.environment, act, keys)
        _, first = jax.vmap(self.environment.reset)(keys)
        outputs = jax.eval_shape(lambda: self.run(context, params, first))
        told = {"return": total, "length": length, "ended": ended.astype(jnp.float32)}
        kept = {name: batch[name] for name in ("seed", "weights") if name in batch}
        return {**kept, **told, **self.fields(first), "labels": self.labels(jnp.zeros(len(total), jnp.int32), outputs)}


def last_logits(outputs: Outputs) -> Float[Array, "batch actions"]:
    """Logits of the actions: of the last token where there is one a token."""
    if outputs.hidden.ndim == 3:
        outputs = dataclasses.replace(outputs, hidden=outputs.hidden[:, -1])
    return outputs.logits


def chosen(values: Float[Array, "batch actions"], actions: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The value of the action of each row."""
    return jnp.take_along_axis(values, actions[:, None], axis=1)[:, 0]


def explored(values: Float[Array, "copies actions"], share: Float[Array, ""], keys: jax.Array) -> Int[Array, " copies"]:
    """The best action of each copy, or with probability `share` any of them."""

    def one(values, key):
        dice, draw = jax.random.split(key)
        anything = jax.random.randint(draw, (), 0, values.shape[0])
        return jnp.where(jax.random.uniform(dice) < share, anything, jnp.argmax(values)).astype(jnp.int32)

    return jax.vmap(one)(values, keys)


def episode_return(predictions: Any, batch: Mapping[str, Any]):
    """A metric: the mean reward of held-out episodes, where ``predict`` is `returns`."""
    weights = batch.get("weights", jnp.ones_like(predictions))
    return (weights * predictions).sum(), weights.sum()


def succeeded(predictions: Any, batch: Mapping[str, Any]):
    """A metric: the share of held-out episodes whose reward is above 0, where ``predict`` is `returns`."""
    weights = batch.get("weights", jnp.ones_like(predictions))
    return (weights * (predictions > 0)).sum(), weights.sum()


def returns(outputs: Outputs, batch: Mapping[str, Array]) -> Float[Array, " batch"]:
    """A prediction for an experiment with agents: the reward of each held-out episode."""
    return batch["return"] if "return" in batch else jnp.zeros(outputs.hidden.shape[0])
