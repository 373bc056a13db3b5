"""Distillation of attention scores, before the softmax: TinyBERT."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import real_tokens
from ft_jax.core.params import Params, never
from ft_jax.distillation.layers import Layer, Layers, paired, states_of
from ft_jax.distillation.teachers import collecting, holding, taught

COLLECTED = "scores"
SEEN = 0.5 * jnp.finfo(jnp.float32).min
"""Scores that a mask hides lie below."""


@register(
    "distillation",
    paper="Jiao et al. 2020, arXiv:1909.10351, equation 7",
    example=lambda problem: attention_scores(
        problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5
    ),
    neutral=Neutral({"weight": 0.0}),
)
def attention_scores(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    layers: Layers = (-1,),
    teacher_layers: Sequence[Layer] | None = None,
    *,
    name: str = "distillation.attention_scores",
) -> Method:
    """Draws attention scores to a teacher's, before the softmax and head by head: TinyBERT.

    With ``A = q kᵀ / √width`` ``[heads, tokens, tokens]`` of a layer, as the model computes it (turned by positions,
    scaled and capped where it does), the term is ``weight · mean over examples and layers of`` the mean over heads and
    pairs of real tokens that see each other of ``(A_student - A_teacher)²``. The paper sums over layers. Its hidden
    states and embeddings (equations 8 and 9) are `hints`, its predictions (10) `logits`. The teacher runs without
    dropout and isn't differentiated.

    Args:
      apply, params: the teacher's, as in `logits`; it reads the student's batch with the same tokens.
      weight: of the term; data in ``hyper``.
      layers: the student's, by number (negative ones from the end) or by name (``"layers/3"``), or a map of them to the
        teacher's, in the paper ``{0: 2, 1: 5, 2: 8, 3: 11}`` of 4 and 12.
      teacher_layers: the teacher's that go with them, by default the same; left out beside a map.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: layers that don't pair; while tracing, a model without scores or that layer, other numbers of heads or
        of tokens.

    Example:
      >>> attention_scores(lambda params, batch, key: None, {}, layers={0: 1, 1: 3}).hyper
      {'weight': 1.0}
    """
    students, teachers = paired(layers, teacher_layers, name)
    teaching = collecting(apply, (COLLECTED,))

    def loss(inner):
        def scored(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            theirs = taught(teaching, context.join(learned)[name], batch)
            own = states_of(outputs, students, f"{name}: the student", COLLECTED, "attention scores")
            wanted = states_of(theirs, teachers, f"{name}: the teacher", COLLECTED, "attention scores")
            time = batch["input_ids"].shape[1] if "input_ids" in batch else None
            gaps = [_gap(a, b, time, real_tokens(batch), name) for a, b in zip(own, wanted, strict=True)]
            value = weighted_mean(sum(gaps) / len(gaps), batch)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return scored

    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        collects=(COLLECTED,),
        loss=loss,
        reads="examples",
    )


def _gap(
    own: Float[Array, "batch heads time source"], wanted, time: int | None, real: Array | None, name: str
) -> Float[Array, " batch"]:
    """Each example's mean over heads and over the pairs of real tokens that both models let see each other."""
    # Virtual tokens and prefixes stand in front.
    own, wanted = (x if time is None else x[..., -time:, -time:] for x in (own, wanted))
    if own.shape != wanted.shape:
        raise ValueError(
            f"{name} compares scores head by head, but the student's are {own.shape[1:]} of heads, tokens and tokens, "
            f"and the teacher's {wanted.shape[1:]}; give both as many, or take distillation.relations, which cuts "
            "heads anew"
        )
    counts = (own > SEEN) & (wanted > SEEN)
    if real is not None:
        counts &= (real > 0)[:, None, :, None]
    apart = jnp.square(jnp.where(counts, own - wanted, 0.0))
    return jnp.sum(apart, axis=(1, 2, 3)) / jnp.maximum(jnp.sum(counts, axis=(1, 2, 3)), 1)
