"""Answers sampled inside the step, by the parameters of the step, and their rewards."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import named
from ft_jax.core.losses import token_log_probabilities
from ft_jax.core.outputs import Outputs, logits_of
from ft_jax.core.state import Context
from ft_jax.models import generate_by
from ft_jax.models.generation.generate import left_padded
from ft_jax.rl.advantages import overlong_penalty
from ft_jax.rl.online.rewards import Answers, Reward

Rows = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """How answers come to be.

    Attributes:
      apply: the model's forward function, a decoder's.
      rewards: by name, each ``Answers -> [answers]``; their weighted sum is the reward.
      samples: answers a prompt; a group, which shares the prompt's prefill.
      max_new_tokens: tokens of an answer at most.
      temperature: of the sampling at first, see `numbers`; an evaluation takes the likeliest tokens.
      stop_tokens: ids that end an answer.
      pad_token: what fills up.
      overlong: DAPO's soft punishment over the last so many tokens, see `ft_jax.rl.advantages.overlong_penalty`; None
        for none.
    """

    apply: Callable
    rewards: Mapping[str, Reward]
    samples: int
    max_new_tokens: int
    temperature: float = 1.0
    stop_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    overlong: int | None = None

    def check(self, name: str) -> None:
        """Raises ValueError on settings that give no answers."""
        if not self.rewards:
            raise ValueError(f"{name} has no reward; give a function of the answers")
        for what, value in (("samples", self.samples), ("max_new_tokens", self.max_new_tokens)):
            if value < 1:
                raise ValueError(f"{name} has {what}={value}; give at least 1")
        if not self.temperature > 0:
            raise ValueError(f"{name} samples at temperature {self.temperature}; give one above 0")
        if self.temperature != 1.0 and self._capped:
            raise ValueError(
                f"{name} samples at temperature {self.temperature} from a model that caps its logits, whose "
                "probabilities the loss has at temperature 1 alone; sample at 1"
            )

    @property
    def _capped(self) -> bool:
        config = getattr(self.apply, "config", None)
        return any(getattr(one, "logit_softcap", None) for one in (config, getattr(config, "language", None)))

    @property
    def numbers(self) -> dict[str, float]:
        """What of it is data in ``hyper``: the temperature, but for a model that caps its logits."""
        return {} if self._capped else {"temperature": self.temperature}

    def check_prompts(self, batch: Mapping[str, Array], name: str) -> None:
        """Raises KeyError or ValueError on a batch that has no prompts, or too long ones."""
        if "input_ids" not in batch:
            raise KeyError(f"{name} answers prompts, but the batch has {named(batch)}; give it 'input_ids'")
        longest, positions = batch["input_ids"].shape[1], getattr(self.apply.config, "positions", None)
        if positions is not None and longest + self.max_new_tokens > positions:
            raise ValueError(
                f"{name} has prompts of {longest} tokens and answers of {self.max_new_tokens}, more than the "
                f"{positions} that the model takes; shorten one of them"
            )

    def answers(
        self,
        context: Context,
        params: Any,
        batch: Mapping[str, Array],
        keys: jax.Array | None,
        temperature: Array | float | None = None,
    ) -> tuple:
        """``(answers, log-probabilities of their tokens [answers, new])``; without keys the likeliest, one a prompt.

        The temperature is that of `numbers` as the state has it, or the first where it is left out.
        """
        ids = batch["input_ids"]
        ids, real = left_padded(ids, batch.get("attention_mask", jnp.ones_like(ids)))
        greedy = keys is None
        times = 1 if greedy else self.samples
        temperature = self.temperature if temperature is None else temperature
        how = {
            "max_new_tokens": self.max_new_tokens, "key": keys, "temperature": 0.0 if greedy else temperature,
            "samples": times, "stop_tokens": self.stop_tokens, "pad_token": self.pad_token,
        }  # fmt: skip
        known = ("input_ids", "attention_mask", "weights")
        more = {name: x for name, x in batch.items() if name not in known and not isinstance(x, Mapping)}
        made = generate_by(context, self.apply, params, ids, real, carried(more), **how)
        fields = {field: jnp.repeat(x, times, axis=0) for field, x in more.items()}
        prompts, mask = (jnp.repeat(x, times, axis=0) for x in (ids, real))
        return Answers(made.tokens, made.lengths, prompts, mask, fields), made.log_probabilities

    def rows(self, answers: Answers, log_probabilities: Array | None, weights: Array | None) -> Rows:
        """Answers after their prompts, as a batch that a language model learns from.

        Returns:
          ``input_ids``, ``attention_mask``, ``labels`` (-1 on the prompt), ``weights`` (1 on the answer) and
          ``sampler``, the sampler's log-probabilities of the labels, ``[answers, time]``, beside the prompts' other
          fields, which a method's forward pass may read.
        """
        new, start = answers.tokens.shape[1], answers.prompts.shape[1] - 1
        said = (jnp.arange(new) < answers.lengths[:, None]).astype(jnp.int32)
        if weights is not None:
            said = said * (weights > 0)[:, None].astype(jnp.int32)
        ids = jnp.concatenate([answers.prompts, answers.tokens], axis=1)
        real = jnp.concatenate([answers.prompt_mask.astype(jnp.int32), said], axis=1)
        counted = jnp.pad(said, ((0, 0), (start, 0)))
        made = {
            **carried(answers.fields),
            "input_ids": ids[:, :-1],
            "attention_mask": real[:, :-1],
            "labels": jnp.where(counted > 0, ids[:, 1:], -1),
            "weights": counted.astype(jnp.float32),
        }
        if log_probabilities is not None:
            made["sampler"] = jnp.pad(log_probabilities, ((0, 0), (start, 0))) * counted
        return made

    def scored(self, answers: Answers, weights: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """``(rewards [answers], each part's)``; a part that could not be told makes the whole NaN.

        Raises:
          ValueError: a reward that is not one number an answer.
        """
        parts = {part: jnp.asarray(reward(answers), jnp.float32) for part, reward in self.rewards.items()}
        for part, value in parts.items():
            if value.shape != answers.lengths.shape:
                raise ValueError(
                    f"reward {part!r} has the shape {value.shape} for {len(answers.lengths)} answers; give one number "
                    "for each"
                )
        total = sum(weights[f"reward_{part}"] * value for part, value in parts.items())
        if self.overlong is not None:
            parts["overlong"] = overlong_penalty(answers.lengths, self.max_new_tokens, self.overlong)
            total = total + parts["overlong"]
        return total, parts


MADE = (
    "input_ids", "attention_mask", "labels", "weights", "sampler", "old", "value", "return", "advantage", "reference",
    "trust", "kept", "reward", "signal", "temperature",
)  # fmt: skip
"""Fields of the rows that a rollout gives; prompts have others."""


def carried(prompts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of prompts that their answers keep."""
    return {name: x for name, x in prompts.items() if name not in MADE and not isinstance(x, Mapping)}


def room_for(prompts: Mapping[str, Any], count: int) -> Rows:
    """Those fields of so many answers before there are any."""
    kept = {name: jnp.asarray(x) for name, x in carried(prompts).items()}
    return {name: jnp.zeros((count, *x.shape[1:]), x.dtype) for name, x in kept.items()}


def temperature_of(batch: Mapping[str, Array], numbers: Mapping[str, Array]) -> Array | float:
    """What rows were sampled at: as they say themselves, which a rollout for several updates does, or as it is now."""
    return batch["temperature"][0] if "temperature" in batch else numbers.get("temperature", 1.0)


def policy_tokens(
    outputs: Outputs, batch: Mapping[str, Array], temperature: Array | float
) -> Float[Array, "batch time"]:
    """Log-probabilities of a batch's labels at the temperature that they were sampled with, 0 where none counts."""
    if isinstance(temperature, jax.Array) or temperature != 1.0:
        if outputs.softcap is not None:
            raise ValueError(
                f"temperature {temperature} and a model that caps its logits don't go together; sample at 1"
            )
        outputs = dataclasses.replace(
            outputs,
            hidden=_over(outputs.hidden, temperature),
            bias=None if outputs.bias is None else _over(outputs.bias, temperature),
        )
    own = token_log_probabilities(outputs, jnp.maximum(batch["labels"], 0))
    return jnp.where(batch["labels"] >= 0, own, 0.0)


def _over(x: Array, temperature: Array | float) -> Array:
    return (x.astype(jnp.float32) / temperature).astype(x.dtype)


def entropies(outputs: Outputs, temperature: Array | float = 1.0) -> Float[Array, "batch time"]:
    """The entropy of what is said next at every position, nats, a position of the time at once."""

    def one(hidden):
        every = jax.nn.log_softmax(logits_of(hidden, outputs.head, outputs.softcap) / temperature)
        return -jnp.sum(jnp.exp(every) * every, axis=-1)

    return jax.lax.map(one, jnp.swapaxes(outputs.hidden, 0, 1)).T


def told_of(rewards, parts, rows: Rows, lengths, samples: int, axis: str | None) -> dict[str, Array]:
    """Numbers for the log, over the answers of all devices to prompts that are no padding.

    The reward's mean, spread and parts, lengths, the entropy as the sampler met it, the share of groups without a
    signal, and that of answers whose reward is no finite number, ``unscored``.
    """
    gather = (lambda x: x) if axis is None else (lambda x: jax.lax.all_gather(x, axis, tiled=True))
    real = gather((rows["weights"] > 0).any(axis=1))

    def mean(values, where=real):
        where = where & jnp.isfinite(values)
        return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(jnp.sum(where), 1)

    rewards = gather(rewards)
    found = {"reward": mean(rewards), "length": mean(gather(lengths.astype(jnp.float32)))}
    found["unscored"] = mean((~jnp.isfinite(rewards)).astype(jnp.float32))
    found["reward_std"] = jnp.sqrt(mean((rewards - found["reward"]) ** 2))
    found |= {f"reward.{part}": mean(gather(value)) for part, value in parts.items()}
    groups = jnp.where(real, rewards, jnp.nan).reshape(-1, samples)
    flat = jnp.nanmax(groups, axis=1) - jnp.nanmin(groups, axis=1) < 1e-6
    found["groups_without_signal"] = mean(flat.astype(jnp.float32), real.reshape(-1, samples).any(axis=1))
    said, count = jnp.sum(gather(rows["sampler"])), jnp.sum(gather(rows["weights"]))
    found["entropy"] = -said / jnp.maximum(count, 1.0)
    return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}
