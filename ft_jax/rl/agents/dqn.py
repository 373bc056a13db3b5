"""Deep Q-learning from a replay buffer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.core.state import pytree
from ft_jax.rl.agents.collect import collect, finished, flat
from ft_jax.rl.agents.policy import Policy, chosen, explored, last_logits
from ft_jax.rl.environments import Copies, Environment, Recall, start
from ft_jax.rl.policy_losses import telling
from ft_jax.rl.sources import only_source


@pytree()
class Replaying:
    """What a Q-learner remembers.

    Attributes:
      copies: of the environment.
      buffer: transitions ``[capacity, ...]`` by field, the oldest overwritten.
      stored: how many were ever stored.
      target: the parameters that what follows is valued with.
      told: for the log.
    """

    copies: Copies
    buffer: dict[str, jax.Array]
    stored: jax.Array
    target: Any
    told: dict[str, jax.Array]


@register(
    "rl",
    paper="Mnih et al. 2015, Nature 518; with double=True van Hasselt et al. 2015, arXiv:1509.06461, equation 4",
    example=lambda problem: dqn(
        problem.apply, problem.params, Recall(32, 6), copies=4, interval=2, capacity=32, size=8, begin=4, discount=0.5
    ),
    neutral="its batch is what the agent lived through, so there is no step without it to equal",
)
def dqn(
    apply: Callable,
    params: Any,
    environment: Environment,
    *,
    copies: int = 1,
    interval: int = 10,
    capacity: int = 10_000,
    size: int = 128,
    begin: int = 10_000,
    period: int = 50,
    double: bool = False,
    discount: float = 0.99,
    explore: float = 1.0,
    explore_least: float = 0.05,
    explore_updates: float = 25_000.0,
    term: str = "task",
    name: str = "rl.dqn",
) -> Method:
    """Learns what each action is worth, from transitions that it remembers.

    For every update the agent acts for `interval` steps in each copy, and the term is ``mean((Q(s, a) - y)²)`` over
    `size` transitions drawn from the last `capacity`, with ``y = reward + discount · max Q_target(s', ·)``, and ``y =
    reward`` where the episode ended by itself. The logits of the loss inside are the values Q; its term `term` is left
    out. The likeliest action is taken, or any with a probability that falls linearly from `explore` to
    `explore_least`. Batches of ``seed`` are played in an evaluation as in `ft_jax.rl.agent_ppo`. The metrics tell the
    mean ``q_values`` of the actions drawn.

    Args:
      apply: the forward function of Q; its classes are the actions.
      params: its parameters, for their shapes.
      environment: to act in.
      copies: of it.
      interval: steps of each copy for an update.
      capacity: transitions remembered.
      size: transitions of an update.
      begin: transitions stored before learning begins; until then an update changes nothing.
      period: updates after which the target becomes what was learned.
      double: the learning parameters choose the action that the target values.
      discount: γ.
      explore, explore_least, explore_updates: share of random actions at first and at last, and the updates between.
      term: of the loss inside, left out.
      name: the method's name.

    Raises:
      ValueError: an environment that does not fit the model, or numbers below 1.

    Example:
      >>> from ft_jax import models
      >>> from ft_jax.rl.environments import CartPole
      >>> model = models.mlp(models.MLPConfig((1, 1, 4), (120, 84), 2), jax.random.key(0))
      >>> dqn(model.apply, model.params, CartPole()).hyper["explore_least"]
      0.05
    """
    for what, value in (("copies", copies), ("interval", interval), ("size", size), ("period", period)):
        if value < 1:
            raise ValueError(f"{name} has {what}={value}; give at least 1")
    if capacity < max(begin, copies * interval):
        raise ValueError(
            f"{name} has capacity={capacity}, below begin={begin} or the {copies * interval} transitions of an update; "
            "remember more"
        )
    policy = Policy(apply, environment)
    outline = policy.outline(params, size)

    def memory(params, key):
        copies_now = start(environment, jax.random.split(key, copies))
        seen = jnp.zeros((capacity, *copies_now.observations.shape[1:]), copies_now.observations.dtype)
        buffer = {"observation": seen, "next": jnp.copy(seen), "action": jnp.zeros(capacity, jnp.int32)}
        buffer |= {field: jnp.zeros(capacity) for field in ("reward", "ended")}
        told = dict.fromkeys(("return", "length"), jnp.float32(0))
        return Replaying(copies_now, buffer, jnp.int32(0), jax.tree.map(jnp.copy, params), told)

    def values(context, params, observations):
        return last_logits(policy.run(context, params, observations))

    def act(state, context, now):
        numbers = context.hyper[name]
        done = jnp.clip(state.step / numbers["explore_updates"], 0.0, 1.0)
        share = numbers["explore"] + (numbers["explore_least"] - numbers["explore"]) * done

        def decide(observations, keys):
            return explored(values(context, state.params, observations), share, keys), ()

        # Every device acts in all copies: what is remembered is the same on each.
        acting, told, _ = collect(environment, decide, now.copies, context.key_for(name), interval)
        ended = told.terminated.astype(jnp.float32)
        new = {"observation": told.observation, "next": told.final, "action": told.action} | {
            "reward": told.reward, "ended": ended,
        }  # fmt: skip
        places = (now.stored + jnp.arange(interval * copies)) % capacity
        buffer = {field: now.buffer[field].at[places].set(x) for field, x in flat(new).items()}
        due = state.step % period == 0
        target = jax.tree.map(lambda old, own: jnp.where(due, own, old), now.target, state.params)
        return Replaying(acting, buffer, now.stored + interval * copies, target, finished(told, now.told))

    def prepare(state, batch, context):
        if not context.train:
            return state, policy.evaluated(context, state.params, batch) if "seed" in batch else batch
        now = act(state, context, state.memory[name])
        state = state.remember(name, now)
        known = jnp.minimum(now.stored, capacity)
        rows = jax.random.randint(context.key_for(f"{name}/sample"), (size,), 0, known)
        if context.axis is not None:
            share = size // jax.lax.psum(1, context.axis)
            rows = jax.lax.dynamic_slice_in_dim(rows, jax.lax.axis_index(context.axis) * share, share)
        drawn = jax.tree.map(lambda x: x[rows], now.buffer)
        following = values(context, now.target, drawn["next"])
        best = jnp.argmax(values(context, state.params, drawn["next"]) if double else following, axis=-1)
        worth = chosen(following, best)
        target = drawn["reward"] + context.hyper[name]["discount"] * (1.0 - drawn["ended"]) * worth
        waits = jnp.where(now.stored >= begin, 1.0, 0.0)
        made = {
            **policy.fields(drawn["observation"]), "labels": policy.labels(drawn["action"], outline),
            "action": drawn["action"], "target": jax.lax.stop_gradient(target), "waits": jnp.full(len(rows), waits),
        }  # fmt: skip
        return state, made

    def loss(inner):
        def temporal(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "target" not in batch:
                return terms, outputs
            worth = chosen(last_logits(outputs), batch["action"])
            missed = (worth - batch["target"]) ** 2
            own = weighted_mean(batch["waits"] * missed, batch)
            return {**scale_term(terms, term, None), name: own}, telling(outputs, name, {"q_values": worth})

        return temporal

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name].told.items()}

    numbers = {"discount": discount, "explore": explore, "explore_least": explore_least}
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
