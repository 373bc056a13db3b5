"""Attention maps as targets: rationales of people, or a teacher's maps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.maps import KIND, attention_maps, real_tokens
from ft_jax.core.batches import named, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params, never

SMALLEST = 1e-9
QUERIES = ("all", "first", "last")
DISTANCES = ("kl", "normalised")


@register(
    "attention",
    paper="Mathew et al. 2021, arXiv:2012.10289; Strout, Zhang and Mooney 2019, arXiv:1905.13714",
    needs=("rationales",),
    example=lambda problem: supervision(weight=0.5),
    batch=lambda batch: {**batch, "rationales": batch["weights"]},
    neutral=Neutral({"weight": 0.0}),
)
def supervision(
    weight: float = 1.0,
    layers: Sequence[int] | None = (-1,),
    heads: Sequence[int] | None = None,
    queries: str = "all",
    *,
    name: str = "attention.supervision",
) -> Method:
    """Draws attention maps towards rationales: the tokens that people say decide the label.

    With ``target = rationale / Σ rationale`` over the tokens that a query sees, the term is
    ``weight · mean over examples, layers, heads and queries of Σ target · log(target / map)``. Examples whose
    rationale is all zero, and queries that see none of it, add nothing. Evaluation needs no rationales.

    Args:
      weight: of the term, in ``hyper``.
      layers: whose maps are guided, negative numbers from the end; None for all.
      heads: which of their heads; None for all.
      queries: ``"all"`` real tokens, the ``"first"`` (a [CLS] token's, as in the paper) or the ``"last"`` real one.
      name: the method's name.

    Raises:
      ValueError: other queries; when tracing, outputs without maps.
      KeyError: in training, a batch without ``rationales`` ``[batch, time]``.

    Example:
      >>> supervision(layers=(0,), queries="first").hyper
      {'weight': 1.0}
    """
    if queries not in QUERIES:
        raise ValueError(f"{name} has queries {queries!r}; use 'all', 'first' or 'last'")

    def loss(inner):
        def guided(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            if "rationales" not in batch:
                if context.train:
                    raise KeyError(
                        f"{name} reads 'rationales' [batch, time], and the batch has {named(batch)}; add "
                        "them, with rows of zeros for examples that have none"
                    )
                return terms, outputs
            rationales = batch["rationales"].astype(jnp.float32)
            time = rationales.shape[1]
            maps = attention_maps(outputs, time, layers, name)
            asked = asked_queries(real_tokens(batch, maps[0]), queries)
            gaps = [_gap(own if heads is None else own[:, jnp.array(heads)], rationales, asked) for own in maps]
            value = weighted_mean(jnp.mean(jnp.stack(gaps), axis=0), batch)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return guided

    return Method(
        name=name,
        hyper={"weight": weight},
        collects=(KIND,),
        loss=loss,
        reads="examples",
        fields=("rationales",),
    )


def asked_queries(real: Float[Array, "batch time"], queries: str) -> Float[Array, "batch time"]:
    """1 at the queries ``"all"``, ``"first"`` or ``"last"`` among the real tokens."""
    if queries == "all":
        return real
    order = jnp.cumsum(real, axis=1)
    return real * (order == (1.0 if queries == "first" else order[:, -1:]))


def _gap(maps, rationales, asked):
    """``[batch, heads, queries, keys]`` against ``[batch, keys]``: each example's mean over heads and queries."""
    seen = jax.lax.stop_gradient(maps > 0) * rationales[:, None, None, :]
    mass = jnp.sum(seen, axis=-1, keepdims=True)
    target = seen / jnp.where(mass > 0, mass, 1.0)
    logs = jnp.log(jnp.maximum(target, SMALLEST)) - jnp.log(jnp.maximum(maps, SMALLEST))
    counts = asked[:, None, :] * (mass[..., 0] > 0)
    return _mean(jnp.sum(target * logs, axis=-1), counts)


def _mean(values, counts):
    """The mean over heads and queries of each example, 0 where nothing counts."""
    total = jnp.sum(counts, axis=(1, 2))
    return jnp.sum(values * counts, axis=(1, 2)) / jnp.where(total > 0, total, 1.0)


@register(
    "attention",
    paper="Zagoruyko and Komodakis 2016, arXiv:1612.03928, equation 2; Wang et al. 2020, arXiv:2002.10957, section 3.1",
    example=lambda problem: transfer(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def transfer(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    layers: Sequence[int] = (-1,),
    teacher_layers: Sequence[int] | None = None,
    distance: str = "kl",
    *,
    name: str = "attention.transfer",
) -> Method:
    """Draws attention maps towards those of a trained teacher.

    With ``"kl"`` (MiniLM) the term is ``weight · mean over examples, layers, heads and real queries of
    Σ map_teacher · log(map_teacher / map_student)``; both have as many heads. With ``"normalised"`` (attention
    transfer) it is ``weight / 2 ·`` the mean over examples and layers of
    ``|| flat_student / ||flat_student|| - flat_teacher / ||flat_teacher|| ||``, where ``flat`` is the mean over the
    heads, so their numbers may differ. The teacher runs without dropout and isn't differentiated; its
    parameters are frozen, held once and shared by all members.

    Args:
      apply: the teacher's; it reads the student's batch with the same tokens.
      params: the teacher's parameters.
      weight: of the term, in ``hyper``.
      layers: the student's layers, negative numbers from the end.
      teacher_layers: the teacher's that go with them, by default the same numbers.
      distance: ``"kl"`` or ``"normalised"``.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: another distance, layers that don't pair; when tracing, a model without maps, or maps of other
        shapes.

    Example:
      >>> from ft_jax.models import tiny_decoder
      >>> model = tiny_decoder(jax.random.key(0))
      >>> transfer(model.apply, model.params, weight=10.0).hyper
      {'weight': 10.0}
    """
    if distance not in DISTANCES:
        raise ValueError(f"{name} has distance {distance!r}; use 'kl' or 'normalised'")
    pairs = layers if teacher_layers is None else teacher_layers
    if len(pairs) != len(layers):
        raise ValueError(f"{name} pairs {len(layers)} layers with {len(pairs)} of the teacher; give as many of each")
    teaching = apply.collecting((KIND,)) if hasattr(apply, "collecting") else apply

    def surgery(tree, key):
        return {**tree, name: params}

    def loss(inner):
        def taught(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            time = batch["input_ids"].shape[1] if "input_ids" in batch else None
            theirs = jax.lax.stop_gradient(teaching(context.join(learned)[name], batch, None))
            own = attention_maps(outputs, time, layers, name)
            wanted = attention_maps(theirs, time, pairs, name)
            real = real_tokens(batch, own[0])
            gaps = [_between(a, b, real, distance, name) for a, b in zip(own, wanted, strict=True)]
            value = weighted_mean(jnp.mean(jnp.stack(gaps), axis=0), batch)
            return {**terms, name: context.hyper[name]["weight"] * value}, outputs

        return taught

    return Method(
        name=name,
        hyper={"weight": weight},
        surgery=surgery,
        trainable=never(f"{name}/*"),
        collects=(KIND,),
        loss=loss,
        reads="examples",
    )


def _between(own, wanted, real, distance: str, name: str):
    if distance == "normalised":
        flat = [jnp.mean(maps, axis=1) * real[:, :, None] for maps in (own, wanted)]
        flat = [x.reshape(x.shape[0], -1) for x in flat]
        unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), SMALLEST) for x in flat]
        squared = jnp.sum(jnp.square(unit[0] - unit[1]), axis=1)
        # The norm has no gradient at 0, where student and teacher agree.
        positive = squared > SMALLEST
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0) / 2
    if own.shape != wanted.shape:
        raise ValueError(
            f"{name} compares maps head by head, but the student's are {own.shape} and the teacher's {wanted.shape}; "
            "use distance='normalised' or a teacher with as many heads"
        )
    logs = jnp.log(jnp.maximum(wanted, SMALLEST)) - jnp.log(jnp.maximum(own, SMALLEST))
    counts = jnp.broadcast_to(real[:, None, :], own.shape[:3])
    return _mean(jnp.sum(wanted * logs, axis=-1), counts)
