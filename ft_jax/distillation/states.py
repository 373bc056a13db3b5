"""Distillation of hidden states: hints, and relations among examples."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import rows, shares, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import pooled
from ft_jax.core.params import Params, never
from ft_jax.distillation.layers import Layer, Layers, paired, states_of
from ft_jax.distillation.teachers import collecting, holding, taught

COLLECTED = "hidden"
SMALLEST = 1e-12


@register(
    "distillation",
    paper="Romero et al. 2015, arXiv:1412.6550, equation 3; Jiao et al. 2020, arXiv:1909.10351 (layer maps)",
    example=lambda problem: hints(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.05),
    neutral=Neutral({"weight": 0.0}),
)
def hints(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    layers: Layers = (-1,),
    teacher_layers: Sequence[Layer] | None = None,
    widths: tuple[int, int] | None = None,
    *,
    name: str = "distillation.hints",
) -> Method:
    """Draws hidden states of some layers to those of a teacher's, through a learned projection where widths differ.

    The term is ``weight · mean over positions and layers of ½ ||teacher - projection(student)||²`` with one
    ``projection(h) = h @ kernel + bias`` for each pair of layers, which regresses the teacher's states as FitNets'
    regressor does; without `widths` there is none. Divide `weight` by half the width for the mean squared errors of
    TinyBERT, over hidden states (equation 8) and, as the layer ``"embeddings"``, over what enters the first (9). The
    first paper trains on hints and then on the task; here both are terms, and `weight` is data.

    Args:
      apply, params: the teacher's, as in `logits`; it reads the student's batch with the same positions.
      weight: of the term, in ``hyper``.
      layers: the student's, by number (negative ones from the end) or by name (``"layers/3"``, ``"embeddings"``), or a
        map of them to the teacher's.
      teacher_layers: the teacher's that go with them, by default the same; left out beside a map.
      widths: ``(student's, teacher's)``, for a projection; None where they agree.
      name: the method's name, under which the teacher and the projections stand.

    Raises:
      ValueError: layers that don't pair; when tracing, a model without hidden states or that layer, other widths than
        given, other positions.

    Example:
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> hints(apply, {}, layers={"embeddings": "embeddings", 1: 2, 2: 4}, widths=(64, 128)).collects
      ('hidden',)
    """
    students, teachers = paired(layers, teacher_layers, name)
    teaching = collecting(apply, (COLLECTED,)) if apply is not None else None

    def surgery(tree, key):
        held = {"teacher": params}
        if widths is not None:
            start = jax.nn.initializers.lecun_normal()
            keys = jax.random.split(key, len(students))
            held["projections"] = [{"kernel": start(one, widths), "bias": jnp.zeros(widths[1])} for one in keys]
        return {**tree, name: held}

    def gap(student, teacher, projection):
        if projection is not None and student.shape[-1] == widths[0]:
            student = student @ projection["kernel"] + projection["bias"]
        if student.shape != teacher.shape:
            raise ValueError(
                f"{name} compares hidden states {student.shape} with the teacher's {teacher.shape}; give "
                f"widths=({student.shape[-1]}, {teacher.shape[-1]}) of the student and the teacher, and both the same "
                "positions"
            )
        apart = jnp.square(student - jax.lax.stop_gradient(teacher))
        return 0.5 * jnp.sum(apart, axis=-1)

    def loss(inner):
        def hinted(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            held = context.join(learned)[name]
            theirs = states_of(taught(teaching, held["teacher"], batch), teachers, f"{name}: the teacher")
            own = states_of(outputs, students, f"{name}: the student")
            through = held.get("projections", (None,) * len(students))
            gaps = [gap(*one) for one in zip(own, theirs, through, strict=True)]
            value = weighted_mean(jnp.mean(jnp.stack(gaps), axis=0), batch)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return hinted

    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=surgery,
        trainable=_projections(name),
        collects=(COLLECTED,),
        loss=loss,
        reads="examples",
    )


def _projections(name: str):
    """The teacher never learns; the projections always do, whatever an adapter freezes."""
    frozen = never(f"{name}/teacher/*")
    return lambda path, leaf: True if path.startswith(f"{name}/projections/") else frozen(path, leaf)


@register(
    "distillation",
    paper="Park et al. 2019, arXiv:1904.05068, equations 5 to 10",
    example=lambda problem: rkd(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def rkd(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    distance: float = 1.0,
    angle: float = 2.0,
    *,
    name: str = "distillation.rkd",
) -> Method:
    """Keeps the distances and angles among a teacher's representations of a batch (relational distillation).

    The term is ``weight · (distance · mean over pairs of huber(d_student - d_teacher) + angle · mean over triplets of
    huber(cos_student - cos_teacher))`` with ``d`` the Euclidean distance over the mean distance of two that differ, and
    ``cos`` of the angle at one example between two others. Representations are what the head reads (its mean over a
    text's tokens), of any two widths. Pairs and triplets are those of the whole batch, over devices and micro-batches,
    so memory grows with its third power; examples that are padding count nothing.

    Args:
      apply, params: the teacher's, as in `logits`.
      weight: of the term; data in ``hyper``, as are all numbers here.
      distance, angle: of the two parts.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: when tracing, a teacher of another number of examples.

    Example:
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> rkd(apply, {}).hyper
      {'weight': 1.0, 'distance': 1.0, 'angle': 2.0}
    """

    def loss(inner):
        def related(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            own, theirs = pooled(outputs, batch), pooled(taught(apply, context.join(learned)[name], batch), batch)
            if len(own) != len(theirs):
                raise ValueError(f"{name} has {len(own)} examples of the student and {len(theirs)} of the teacher")
            counts = shares(batch, (rows(batch),))
            parts = context.couple(_relations, own, aligned=(theirs, counts))
            hyper = context.hyper[name]
            value = hyper["distance"] * parts["distance"] + hyper["angle"] * parts["angle"]
            return {**terms, name: hyper["weight"] * value}, outputs

        return related

    return Method(
        name=name,
        hyper={"weight": weight, "distance": distance, "angle": angle},
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        loss=loss,
        reads="examples",
    )


def _relations(own, everyone, start, shared, own_aligned, all_aligned):
    theirs, counts = all_aligned
    counts = (counts > 0).astype(jnp.float32)
    pairs = counts[:, None] * counts
    triplets = counts[:, None, None] * pairs
    gaps = distances(everyone, pairs) - distances(theirs, pairs)
    turns = cosines(everyone) - cosines(theirs)
    return {"distance": _mean(huber(gaps), pairs), "angle": _mean(huber(turns), triplets)}


def distances(x: Float[Array, "n width"], pairs: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Euclidean distances over their mean among the pairs that count and differ."""
    squared = jnp.sum(jnp.square(x[:, None] - x), axis=-1)
    apart = squared > SMALLEST
    found = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return found / jnp.maximum(_mean(found, pairs * apart), SMALLEST)


def cosines(x: Float[Array, "n width"]) -> Float[Array, "n n n"]:
    """``cosines[i, j, k]`` of the angle at example i between those to j and to k."""
    towards = x[None] - x[:, None]
    squared = jnp.sum(jnp.square(towards), axis=-1, keepdims=True)
    apart = squared > SMALLEST
    unit = jnp.where(apart, towards / jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return jnp.einsum("ijw,ikw->ijk", unit, unit)


def huber(x):
    """``x² / 2`` up to 1, ``|x| - 1/2`` beyond."""
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * jnp.square(x), size - 0.5)


def _mean(values, weights):
    return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), SMALLEST)
