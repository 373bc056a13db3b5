"""Proximal policy optimisation of an agent in an environment."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import register
from ft_jax.core.losses import scale_term
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.state import pytree
from ft_jax.rl.advantages import generalised, whitened
from ft_jax.rl.agents import value_network
from ft_jax.rl.agents.collect import collect, divides, finished, flat, minibatch, orders
from ft_jax.rl.agents.policy import Policy, chosen, last_logits
from ft_jax.rl.environments import Copies, Environment, Recall, start
from ft_jax.rl.policy_losses import (
    clip_fraction,
    clipped,
    clipped_values,
    explained_variance,
    old_divergence,
    telling,
)
from ft_jax.rl.sources import only_source


@pytree()
class Acting:
    """What an agent remembers between updates.

    Attributes:
      copies: of the environment.
      rows: what was collected last, ``[steps · copies, ...]`` by field.
      orders: in which the epochs go through the rows.
      told: for the log: mean reward and length of the episodes that ended, and what the values explain.
    """

    copies: Copies
    rows: Any
    orders: Int[Array, "epochs rows"]
    told: dict[str, jax.Array]


@register(
    "rl",
    paper="Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9; details of Huang et al. 2022, 'The 37 details'",
    example=lambda problem: agent_ppo(
        problem.apply, problem.params, Recall(32, 6), copies=8, steps=4, epochs=1, minibatches=2, critic=None
    ),
    neutral="its batch is what the agent lives through, so there is no step without it to equal",
)
def agent_ppo(
    apply: Callable,
    params: Any,
    environment: Environment,
    *,
    copies: int = 4,
    steps: int = 128,
    epochs: int = 4,
    minibatches: int = 4,
    critic: tuple[int, ...] | None = (64, 64),
    discount: float = 0.99,
    trace: float = 0.95,
    clip: float = 0.2,
    value_weight: float = 0.5,
    entropy_weight: float = 0.01,
    term: str = "task",
    name: str = "rl.agent_ppo",
) -> Method:
    """Trains a policy on what it does in copies of an environment, kept near the policy that did it.

    Every ``epochs · minibatches`` updates the policy acts for `steps` steps in each copy. An update takes a minibatch
    of that and adds the terms ``mean(-min(ratio · A, clip(ratio, 1 ± clip) · A))``, ``value_weight · mean(½ · max((V -
    R)², (V_old + clip(V - V_old, ±clip) - R)²))`` and ``-entropy_weight · mean(entropy)``, with ``ratio = p(action) /
    p_old(action)``, ``A`` the generalised advantages (`ft_jax.rl.advantages.generalised`), whitened in the minibatch,
    and returns ``R = A + V_old``. Episodes that a time limit cut go on in value. The loss inside sees the actions as
    labels; its term `term` is left out.

    The data's batch says nothing in training; one with ``seed`` ``[batch]`` in an evaluation plays an episode for each
    (`Policy.evaluated`). In the step's metrics are the mean ``return`` and ``length`` of the episodes that ended last
    and the ``explained_variance`` of the values; of the update's minibatch ``clip_fraction``, the share from which the
    clip takes the gradient, ``old_kl``, how far the policy went from the one that acted, and ``policy_entropy``.

    Args:
      apply: the policy's forward function; its classes are the actions.
      params: its parameters, for their shapes.
      environment: to act in, see `ft_jax.rl.environments`.
      copies: of it, which act at once.
      steps: of each copy between updates.
      epochs: how often what was collected is gone through.
      minibatches: that it is cut into.
      critic: widths of a network of values of its own; None for one more output of the policy's last hidden state.
      discount, trace: γ and λ of the advantages.
      clip: how far a probability may move, as a share.
      value_weight, entropy_weight: of the terms.
      term: of the loss inside, left out.
      name: the method's name.

    Raises:
      ValueError: an environment that does not fit the model, or numbers that are no whole minibatches.

    Example:
      >>> from ft_jax import models
      >>> from ft_jax.rl.environments import CartPole
      >>> model = models.mlp(models.MLPConfig((1, 1, 4), (64, 64), 2, "tanh"), jax.random.key(0))
      >>> agent_ppo(model.apply, model.params, CartPole()).hyper["clip"]
      0.2
    """
    divides(name, copies, steps, minibatches, epochs)
    policy = Policy(apply, environment)
    outline = policy.outline(params, copies)
    own = critic is not None
    width = 1
    for size in environment.observation if own else outline.hidden.shape[-1:]:
        width *= size

    def surgery(whole, key):
        return {**whole, name: value_network.initial(key, width, critic or ())}

    def values_of(context, params, observations, outputs):
        return value_network.value(context.join(params)[name], observations, outputs, own)

    def memory(params, key):
        begin = start(environment, jax.random.split(key, copies))
        count = copies * steps
        number = jnp.zeros(count)
        rows = {
            "observation": jnp.zeros((count, *begin.observations.shape[1:]), begin.observations.dtype),
            "action": jnp.zeros(count, jnp.int32),
        } | dict.fromkeys(("old", "value", "advantage"), number)
        told = dict.fromkeys(("return", "length", "explained_variance"), jnp.float32(0))
        return Acting(begin, rows, jnp.zeros((epochs, count), jnp.int32), told)

    def act(state, context, memory):
        numbers = context.hyper[name]

        def look(observations):
            outputs = policy.run(context, state.params, observations)
            return jax.nn.log_softmax(last_logits(outputs)), values_of(context, state.params, observations, outputs)

        def decide(observations, keys):
            every, value = look(observations)
            actions = jax.vmap(jax.random.categorical)(keys, every).astype(jnp.int32)
            return actions, (chosen(every, actions), value)

        key = context.key_for(name)
        now, told, (old, values) = collect(environment, decide, memory.copies, key, steps, context.axis)
        ends, cuts = (x.astype(jnp.float32) for x in (told.terminated, told.truncated))
        # What an episode ended in is valued where a time limit cut one, which is rare.
        final = jax.lax.cond(
            jnp.any(told.truncated),
            lambda: look(flat(told.final))[1].reshape(values.shape),
            lambda: jnp.zeros_like(values).at[-1].set(look(told.final[-1])[1]),
        )
        advantages = generalised(
            told.reward, values, final[-1], ends, discount=numbers["discount"], trace=numbers["trace"], cuts=cuts,
            final_values=final,
        )  # fmt: skip
        rows = {
            "observation": told.observation, "action": told.action, "old": old, "value": values,
            "advantage": advantages,
        }  # fmt: skip
        explained = explained_variance(values, values + advantages)
        order = orders(jax.random.fold_in(state.key, digest(name)), state.step, epochs, minibatches, copies * steps)
        return Acting(now, flat(rows), order, {**finished(told, memory.told), "explained_variance": explained})

    def prepare(state, batch, context):
        if not context.train:
            return state, policy.evaluated(context, state.params, batch) if "seed" in batch else batch
        due = state.step % (epochs * minibatches) == 0
        now = jax.lax.cond(due, lambda old: act(state, context, old), lambda old: old, state.memory[name])
        rows = minibatch(now.rows, now.orders, state.step, minibatches)
        rows["return"] = rows["advantage"] + rows["value"]
        rows["advantage"] = whitened(rows["advantage"])
        if context.axis is not None:
            share = rows["action"].shape[0] // jax.lax.psum(1, context.axis)
            at = jax.lax.axis_index(context.axis) * share
            rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, share), rows)
        observations, actions = rows.pop("observation"), rows["action"]
        made = {**policy.fields(observations), **rows, "labels": policy.labels(actions, outline)}
        return state.remember(name, now), made

    def loss(inner):
        def surrogate(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "old" not in batch:
                return terms, outputs
            numbers = context.hyper[name]
            every = jax.nn.log_softmax(last_logits(outputs))
            ratio, advantage = (chosen(every, batch["action"]) - batch["old"])[:, None], batch["advantage"][:, None]
            limits = numbers["clip"], numbers["clip"]
            moved = clipped(ratio, advantage, *limits)[:, 0]
            value = values_of(context, params, batch[environment.field], outputs)
            missed = clipped_values(value, batch["value"], batch["return"], numbers["clip"])
            entropy = -jnp.sum(jnp.exp(every) * every, axis=-1)
            own_terms = {
                f"{name}/policy": weighted_mean(moved, batch),
                f"{name}/value": numbers["value_weight"] * weighted_mean(missed, batch),
                f"{name}/entropy": -numbers["entropy_weight"] * weighted_mean(entropy, batch),
            }
            one = jnp.ones_like(ratio)
            told = {
                "clip_fraction": clip_fraction(ratio, advantage, *limits, one),
                "old_kl": old_divergence(ratio, one),
                "policy_entropy": entropy,
            }
            return {**scale_term(terms, term, None), **own_terms}, telling(outputs, name, told)

        return surrogate

    def report(state):
        return {f"{name}/{what}": value for what, value in state.memory[name].told.items()}

    numbers = {"discount": discount, "trace": trace, "clip": clip}
    return Method(
        name=name,
        hyper={**numbers, "value_weight": value_weight, "entropy_weight": entropy_weight},
        surgery=surgery,
        memory=memory,
        prepare=prepare,
        loss=loss,
        drops=(term,),
        report=report,
        reads="examples",
        gives="seeds",
        refuses=only_source(name, "seeds"),
    )
