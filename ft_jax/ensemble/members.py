"""Independent members in one program, and the fusion of what they predict."""

import dataclasses

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.members import map_members
from ft_jax.core.method import Method
from ft_jax.core.program import Evaluation, Program
from ft_jax.ensemble.fusion.rules import FUSIONS


@register(
    "ensemble",
    paper="Lakshminarayanan et al. 2017, arXiv:1612.01474",
    example=lambda problem: members(2),
    neutral="its members are whole runs without a weight; the members law compares each with a run of its own",
)
def members(count: int, fusion: str | None = "mean", *, name: str = "ensemble.members") -> Method:
    """Trains `count` members from different keys in one program and fuses their predictions.

    A deep ensemble over whatever the composition learns: with LoRA, members are adapters on one frozen
    base. Each member has its own initialisation, dropout and sampling; the batch is the same for all.

    Args:
      count: how many members.
      fusion: how evaluation fuses the members' logits ``[members, ..., classes]``: ``"mean"`` (soft voting),
        ``"vote"`` (hard voting), ``"product"`` (product of experts), or None to keep them apart, as trials.
      name: the method's name.

    Raises:
      ValueError: fewer than one member or an unknown fusion.

    Example:
      >>> members(4, fusion="vote").name
      'ensemble.members'
    """
    if count < 1:
        raise ValueError(f"{name} has {count} members; give it at least 1")
    if fusion is not None and fusion not in FUSIONS:
        raise ValueError(f"{name} can't fuse by {fusion!r}; use {', '.join(map(repr, FUSIONS))} or None")

    def lift(program: Program, build) -> Program:
        lifted = map_members(program, count)
        if fusion is None:
            return lifted

        def evaluate(state, batch):
            terms, predictions, weights = lifted.evaluate(state, batch)
            terms = jax.tree.map(lambda term: jnp.mean(term, axis=0), terms)
            return Evaluation(terms, FUSIONS[fusion](predictions), weights[0])

        def alike(after):
            """All members see the fused metrics."""
            return lambda state, metrics: after(state, {k: jnp.stack([v] * count) for k, v in metrics.items()})

        after_eval = lifted.after_eval.map(alike)
        return dataclasses.replace(lifted, evaluate=evaluate, after_eval=after_eval, trials=program.trials)

    return Method(name=name, lift=lift)
