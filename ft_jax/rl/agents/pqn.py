"""Parallelised Q-learning: many copies in place of a replay buffer and a target network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.state import pytree
from ft_jax.rl.agents.collect import collect, divides, finished, flat, minibatch, orders
from ft_jax.rl.agents.policy import Policy, chosen, explored, last_logits
from ft_jax.rl.environments import Copies, Environment, Recall, start
from ft_jax.rl.policy_losses import telling
from ft_jax.rl.sources import only_source


@pytree()
class Exploring:
    """What it remembers between updates: copies, what was collected, its epochs' orders, and numbers for the log."""

    copies: Copies
    rows: Any
    orders: Int[Array, "epochs rows"]
    told: dict[str, jax.Array]


def lambda_returns(
    rewards: Float[Array, "time copies"],
    following: Float[Array, "time copies"],
    ends: Float[Array, "time copies"],
    cuts: Float[Array, "time copies"],
    discount,
    trace,
) -> Float[Array, "time copies"]:
    """Q(λ): ``R_t = reward_t + discount · (1 - end_t) · (trace · R_{t+1} + (1 - trace) · max Q(s_{t+1}))``.

    Gallici et al. 2024, arXiv:2407.04811, section 4.

    Args:
      rewards: at each time.
      following: ``max Q`` of what is seen after each time, within the same episode.
      ends: 1 where the episode ended by itself.
      cuts: 1 where it was cut, and the return goes no further.
      discount, trace: γ and λ.

    Example:
      >>> one = jnp.ones((2, 1))
      >>> lambda_returns(one, 3 * one, 0 * one, 0 * one, 1.0, 0.5).tolist()
      [[4.5], [4.0]]
    """

    def back(ahead, now):
        reward, value, end, cut = now
        mixed = jnp.where(cut > 0, value, trace * ahead + (1.0 - trace) * value)
        found = reward + discount * (1.0 - end) * mixed
        return found, found

    return jax.lax.scan(back, following[-1], (rewards, following, ends, cuts), reverse=True)[1]


@register(
    "rl",
    paper="Gallici et al. 2024, arXiv:2407.04811, algorithm 1",
    example=lambda problem: pqn(
        problem.apply, problem.params, Recall(32, 6), copies=8, steps=4, epochs=1, minibatches=2
    ),
    neutral="its batch is what the agent lives through, so there is no step without it to equal",
)
def pqn(
    apply: Callable,
    params: Any,
    environment: Environment,
    *,
    copies: int = 128,
    steps: int = 32,
    epochs: int = 2,
    minibatches: int = 16,
    discount: float = 0.99,
    trace: float = 0.65,
    explore: float = 1.0,
    explore_least: float = 0.05,
    explore_updates: float = 5_000.0,
    term: str = "task",
    name: str = "rl.pqn",
) -> Method:
    """Learns what each action is worth from what many copies just lived through.

    Every ``epochs · minibatches`` updates the agent acts for `steps` steps in each copy, and the term is ``mean(½ ·
    (Q(s, a) - R)²)`` over a minibatch, with the λ-returns `lambda_returns` under the values at that time. There is no
    target network and no buffer: the paper asks for a network with layer normalisation instead. The logits of the loss
    inside are the values Q; its term `term` is left out. Batches of ``seed`` are played in an evaluation as in
    `ft_jax.rl.agent_ppo`. The metrics tell the mean ``q_values`` of a minibatch's actions.

    Args:
      apply: the forward function of Q; its classes are the actions.
      params: its parameters, for their shapes.
      environment: to act in.
      copies, steps, epochs, minibatches: as in `ft_jax.rl.agent_ppo`.
      discount, trace: γ and λ.
      explore, explore_least, explore_updates: share of random actions at first and at last, and the updates between.
      term: of the loss inside, left out.
      name: the method's name.

    Raises:
      ValueError: an environment that does not fit the model, or numbers that are no whole minibatches.

    Example:
      >>> from ft_jax import models
      >>> from ft_jax.rl.environments import CartPole
      >>> model = models.mlp(models.MLPConfig((1, 1, 4), (64, 64), 2), jax.random.key(0))
      >>> pqn(model.apply, model.params, CartPole()).hyper["trace"]
      0.65
    """
    divides(name, copies, steps, minibatches, epochs)
    policy = Policy(apply, environment)
    outline = policy.outline(params, copies)

    def memory(params, key):
        begin = start(environment, jax.random.split(key, copies))
        count = copies * steps
        rows = {
            "observation": jnp.zeros((count, *begin.observations.shape[1:]), begin.observations.dtype),
            "action": jnp.zeros(count, jnp.int32),
            "target": jnp.zeros(count),
        }
        told = dict.fromkeys(("return", "length"), jnp.float32(0))
        return Exploring(begin, rows, jnp.zeros((epochs, count), jnp.int32), told)

    def act(state, context, now):
        numbers = context.hyper[name]
        done = jnp.clip(state.step / numbers["explore_updates"], 0.0, 1.0)
        share = numbers["explore"] + (numbers["explore_least"] - numbers["explore"]) * done

        def values(observations):
            return last_logits(policy.run(context, state.params, observations))

        def decide(observations, keys):
            return explored(values(observations), share, keys), ()

        acting, told, _ = collect(environment, decide, now.copies, context.key_for(name), steps, context.axis)
        following = values(flat(told.final)).max(axis=-1).reshape(told.reward.shape)
        ends, cuts = (x.astype(jnp.float32) for x in (told.terminated, told.truncated))
        found = lambda_returns(told.reward, following, ends, cuts, numbers["discount"], numbers["trace"])
        rows = {"observation": told.observation, "action": told.action, "target": found}
        key = jax.random.fold_in(state.key, digest(name))
        order = orders(key, state.step, epochs, minibatches, copies * steps)
        return Exploring(acting, flat(rows), order, finished(told, now.told))

    def prepare(state, batch, context):
        if not context.train:
            return state, policy.evaluated(context, state.params, batch) if "seed" in batch else batch
        due = state.step % (epochs * minibatches) == 0
        now = jax.lax.cond(due, lambda old: act(state, context, old), lambda old: old, state.memory[name])
        rows = minibatch(now.rows, now.orders, state.step, minibatches, context.axis)
        observations = rows.pop("observation")
        made = {**policy.fields(observations), **rows, "labels": policy.labels(rows["action"], outline)}
        return state.remember(name, now), made

    def loss(inner):
        def temporal(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "target" not in batch:
                return terms, outputs
            worth = chosen(last_logits(outputs), batch["action"])
            own = weighted_mean(0.5 * (worth - batch["target"]) ** 2, batch)
            return {**scale_term(terms, term, None), name: own}, telling(outputs, name, {"q_values": worth})

        return temporal

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name].told.items()}

    numbers = {"discount": discount, "trace": trace, "explore": explore, "explore_least": explore_least}
    return Method(
        name=name,
        hyper={**numbers, "explore_updates": explore_updates},
        memory=memory,
        prepare=prepare,
        loss=loss,
        drops=(term,),
        report=report,
        reads="examples",
        gives="seeds",
        refuses=only_source(name, "seeds"),
    )
