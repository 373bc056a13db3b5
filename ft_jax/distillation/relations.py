"""Distillation of relations among a layer's queries, keys and values."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, real_tokens
from ft_jax.core.params import Params, never
from ft_jax.distillation.layers import Layer, Layers, paired, states_of
from ft_jax.distillation.teachers import collecting, holding, taught

COLLECTED = "projections"
KINDS = ("query", "key", "value")
HIDDEN = 0.7 * jnp.finfo(jnp.float32).min
"""The score of what a relation does not see."""


@register(
    "distillation",
    paper="Wang et al. 2021, arXiv:2012.15828",
    example=lambda problem: relations(
        problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5, heads=2
    ),
    neutral=Neutral({"weight": 0.0}),
)
def relations(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    heads: int = 48,
    layers: Layers = (-1,),
    teacher_layers: Sequence[Layer] | None = None,
    kinds: Sequence[str] = KINDS,
    *,
    name: str = "distillation.relations",
) -> Method:
    """Draws the self-attention relations of a layer to those of a deeper or wider teacher's: MiniLMv2.

    The queries of all heads side by side are cut into `heads` relation heads anew, and so are keys and values. With
    ``A_a`` ``[tokens, width]`` one of them, its relation is ``R_a = softmax(A_a A_aᵀ / √width)`` over the real tokens,
    and the term is ``weight · Σ over kinds of`` the mean over examples, relation heads and real tokens of
    ``KL(R_a(teacher) || R_a(student))``. A relation has the shape tokens × tokens whatever the widths, numbers of heads
    and depths, so nothing is projected. The paper takes a large teacher's layer below its last, 48 or 64 relation heads
    and the student's last layer. The teacher runs without dropout and isn't differentiated.

    Args:
      apply, params: the teacher's, as in `logits`; it reads the student's batch with the same tokens.
      weight: of the term; data in ``hyper``.
      heads: relation heads; they divide the widths of both.
      layers: the student's, by number (negative ones from the end) or by name (``"layers/3"``), or a map of them to the
        teacher's; the term is the mean over them.
      teacher_layers: the teacher's that go with them, by default the same; left out beside a map.
      kinds: of ``"query"``, ``"key"`` and ``"value"``; with values alone, and as many heads as both models
        have, it is the value relation of MiniLM.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: other kinds, or none; layers that don't pair; while tracing, a model without projections or that
        layer, widths that do not divide, other numbers of tokens.

    Example:
      >>> relations(lambda params, batch, key: None, {}, heads=12, kinds=("value",)).hyper
      {'weight': 1.0}
    """
    wrong = [kind for kind in kinds if kind not in KINDS]
    if wrong or not kinds:
        raise ValueError(f"{name} has kinds {wrong or kinds!r}; give some of {', '.join(map(repr, KINDS))}")
    if heads < 1:
        raise ValueError(f"{name} has heads={heads}; give at least 1")
    students, teachers = paired(layers, teacher_layers, name)
    teaching = collecting(apply, (COLLECTED,))

    def loss(inner):
        def related(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            theirs = taught(teaching, context.join(learned)[name], batch)
            own = projected(outputs, students, f"{name}: the student")
            wanted = projected(theirs, teachers, f"{name}: the teacher")
            time = batch["input_ids"].shape[1] if "input_ids" in batch else None
            real = real_tokens(batch)
            gaps = [
                sum(_gap(a[kind], b[kind], heads, time, real, name) for kind in kinds)
                for a, b in zip(own, wanted, strict=True)
            ]
            value = weighted_mean(sum(gaps) / len(gaps), batch)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return related

    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        collects=(COLLECTED,),
        loss=loss,
        reads="examples",
    )


def projected(outputs: Outputs, layers: Sequence[Layer], who: str) -> list[dict[str, Float[Array, "batch time width"]]]:
    """Each layer's queries, keys and values, all heads side by side, float32.

    Raises:
      ValueError: outputs without them, or without that layer's.
    """
    what = "queries, keys and values"
    found = {kind: states_of(outputs, layers, who, kind, what) for kind in KINDS}
    flat = {kind: [x.reshape(*x.shape[:2], -1) for x in states] for kind, states in found.items()}
    return [dict(zip(KINDS, one, strict=True)) for one in zip(*flat.values(), strict=True)]


def relation(
    vectors: Float[Array, "batch time width"], heads: int, real: Array | None
) -> Float[Array, "batch heads time time"]:
    """Logarithms of the relations among tokens, of which those that are not real are seen by none."""
    batch, time, width = vectors.shape
    cut = vectors.reshape(batch, time, heads, width // heads)
    scores = jnp.einsum("bthd,bshd->bhts", cut, cut) * (width // heads) ** -0.5
    if real is not None:
        scores = jnp.where(real[:, None, None, :] > 0, scores, HIDDEN)
    return jax.nn.log_softmax(scores, axis=-1)


def _gap(own, wanted, heads: int, time: int | None, real: Array | None, name: str) -> Float[Array, " batch"]:
    """Each example's mean divergence over relation heads and real tokens."""
    # Virtual tokens stand in front.
    own, wanted = (x if time is None else x[:, -time:] for x in (own, wanted))
    if own.shape[:2] != wanted.shape[:2]:
        raise ValueError(
            f"{name} relates {own.shape[1]} tokens of the student and {wanted.shape[1]} of the teacher; give both the "
            "same tokens"
        )
    for who, x in (("student", own), ("teacher", wanted)):
        if x.shape[-1] % heads:
            raise ValueError(
                f"{name} cuts the {who}'s {x.shape[-1]} numbers a token into {heads} heads; give a divisor"
            )
    log_p, log_q = (relation(x, heads, real) for x in (wanted, own))
    rows = jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1), axis=1)
    if real is None:
        return jnp.mean(rows, axis=1)
    counts = (real > 0).astype(jnp.float32)
    return jnp.sum(rows * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1.0)
