"""Contrastive representation distillation, over banks of all examples' embeddings."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import example_weights, named, rows, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import pooled
from ft_jax.core.params import Params, never
from ft_jax.distillation.teachers import taught

INDEX = "index"
SMALLEST = 1e-7
SIDES = ("student", "teacher")


def _numbered(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The laws' batch whose examples are the first, the fourth and so on of 24."""
    return {**batch, INDEX: 3 * jnp.arange(rows(batch), dtype=jnp.int32)}


def _on(problem, **options) -> Method:
    width = problem.params["head"]["kernel"].shape[0]
    sharper = jax.tree.map(lambda leaf: 1.2 * leaf, problem.params)
    sizes = {"widths": (width, width), "examples": 24, "negatives": 5, "dimension": 4}
    return crd(problem.apply, sharper, problem.apply, **sizes, **options)


@register(
    "distillation",
    paper="Tian, Krishnan and Isola 2020, arXiv:1910.10699, equations 8 to 11 and 17 to 19",
    example=lambda problem: _on(problem, weight=0.05),
    needs=(INDEX,),
    batch=_numbered,
    neutral=Neutral({"weight": 0.0}),
)
def crd(
    apply: Callable,
    params: Params,
    student: Callable,
    *,
    widths: tuple[int, int],
    examples: int,
    weight: float = 0.8,
    negatives: int = 16384,
    dimension: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
    name: str = "distillation.crd",
) -> Method:
    """Draws the student's representation of an example to the teacher's of it and away from its others'.

    Both networks' representations (what the head reads, its mean over a text's tokens) go through a learned linear
    projection to `dimension` numbers of length 1, s and t. Two banks hold the last ones of every example of the data,
    S and T. With j the example and `negatives` others drawn from all `examples`, the term is ``weight ·`` the mean over
    examples of ``nce(exp(s · T_j / temperature) / Z_s) + nce(exp(t · S_j / temperature) / Z_t)``, where

        nce(p) = -log(p_0 / (p_0 + c)) - Σ_negatives log(c / (p + c)),  c = negatives / examples.

    Z makes ``p`` 1 / examples on average over the first batch, and stays. After a step the batch's rows become
    ``momentum · row + (1 - momentum) · embedding``, of length 1; examples that are padding write nothing. Rows of the
    banks are not differentiated, so the student learns by the first part and both projections by theirs.

    The banks take what the networks said before the step, so the student reads the batch once more, with dropout of its
    own; the teacher reads it once. A device holds ``2 · examples · dimension`` numbers for the banks and ``examples``
    for each example of a micro-batch.

    Args:
      apply, params: the teacher's, as in `logits`.
      student: the student's own forward function.
      widths: of the student's and of the teacher's representation.
      examples: how many the data has; their ``index`` is below.
      weight: of the term, 0.8 as in the authors' code; data in ``hyper``, as are `temperature` and `momentum`.
      negatives: of each example.
      dimension: of the shared space.
      temperature: divides the cosines.
      momentum: of a bank's row.
      name: the method's name, under which the teacher and the projections stand, and the banks in ``memory[name]``.

    Raises:
      ValueError: a count below 1, a temperature that is not positive, a momentum outside [0, 1).
      KeyError: while training on a batch without ``index [batch]``; `ft_jax.data.batches(..., index=True)` adds it.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> crd(apply, {}, apply, widths=(64, 128), examples=50000).hyper
      {'weight': 0.8, 'temperature': 0.07, 'momentum': 0.5}
    """
    for count, value in {"examples": examples, "negatives": negatives, "dimension": dimension}.items():
        if value < 1:
            raise ValueError(f"{name} has {count}={value}; give at least 1")
    if not temperature > 0:
        raise ValueError(f"{name} has temperature {temperature}; give a positive one, such as 0.07")
    if not 0 <= momentum < 1:
        raise ValueError(f"{name} has momentum {momentum}; give a number from 0 to below 1")

    def surgery(tree, key):
        start = jax.nn.initializers.lecun_normal()
        keys = jax.random.split(key)
        made = {
            side: {"kernel": start(one, (width, dimension)), "bias": jnp.zeros(dimension)}
            for side, one, width in zip(SIDES, keys, widths, strict=True)
        }
        return {**tree, name: {"teacher": params, "projections": made}}

    def memory(learned, key):
        most = (dimension / 3) ** -0.5
        keys = zip(SIDES, jax.random.split(key), strict=True)
        drawn = {side: jax.random.uniform(one, (examples, dimension), jnp.float32, -most, most) for side, one in keys}
        return {**drawn, "normalisers": jnp.zeros(2)}

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        if INDEX not in batch:
            raise KeyError(
                f"{name} reads {INDEX!r}, each example's place in the data, and the batch has {named(batch)}; make the "
                "batches with index=True"
            )
        held = context.join(state.params)[name]
        theirs = pooled(taught(apply, held["teacher"], batch), batch)
        own = pooled(context.drawing(name).run(student, state.params, batch), batch)
        embeddings = [embedded(held["projections"][side], x) for side, x in zip(SIDES, (own, theirs), strict=True)]
        draw = jax.vmap(lambda key: jax.random.randint(key, (negatives,), 0, examples))
        drawn = jnp.concatenate([batch[INDEX][:, None], draw(context.keys_for(name, batch))], axis=1)
        part = {"teacher": theirs, "drawn": drawn, "embeddings": jnp.stack(embeddings, axis=1)}
        part = jax.lax.stop_gradient(part)
        banks = state.memory[name]
        first = jnp.all(banks["normalisers"] == 0)
        sums = jax.lax.cond(
            first,
            lambda: normaliser_sums(part, banks, example_weights(batch), state.hyper[name]["temperature"]),
            lambda: (jnp.zeros(2), jnp.float32(1)),
        )
        totals, count = sums if context.axis is None else jax.lax.psum(sums, context.axis)
        fresh = jnp.where(count > 0, examples * totals / jnp.maximum(count, 1), 0.0)
        normalisers = jnp.where(first, fresh, banks["normalisers"])
        return state.remember(name, {**banks, "normalisers": normalisers}), {**batch, name: part}

    def loss(inner):
        def contrasted(learned, batch, context):
            terms, outputs = inner(learned, batch, context)
            if name not in batch:  # An evaluation, or examples of a buffer, which have no place in the data.
                return terms, outputs
            part, banks, numbers = batch[name], context.memory[name], context.hyper[name]
            through = context.join(learned)[name]["projections"]
            sides = (
                (embedded(through["student"], pooled(outputs, batch)), banks["teacher"]),
                (embedded(through["teacher"], part["teacher"]), banks["student"]),
            )
            value = 0.0
            for (anchor, bank), normaliser in zip(sides, banks["normalisers"], strict=True):
                chances = scores(anchor, bank, part["drawn"], numbers["temperature"])
                value += estimation(chances / jnp.where(normaliser > 0, normaliser, 1.0), examples)
            return {**terms, name: numbers["weight"] * weighted_mean(value, batch)}, outputs

        return contrasted

    def after_step(state, event):
        part, banks = event.batch[name], state.memory[name]
        places, counts = event.batch[INDEX], example_weights(event.batch) > 0
        share = state.hyper[name]["momentum"]
        moved = {
            side: written(banks[side], places, part["embeddings"][:, at], counts, share)
            for at, side in enumerate(SIDES)
        }
        return state.remember(name, {**banks, **moved})

    return Method(
        name=name,
        hyper={"weight": weight, "temperature": temperature, "momentum": momentum},
        surgery=surgery,
        trainable=_projections(name),
        memory=memory,
        prepare=prepare,
        loss=loss,
        after_step=after_step,
        reads="examples",
        fields=(INDEX,),
    )


def _projections(name: str):
    """The teacher never learns; the projections always do, whatever an adapter freezes."""
    frozen = never(f"{name}/teacher/*")
    return lambda path, leaf: True if path.startswith(f"{name}/projections/") else frozen(path, leaf)


def embedded(projection: Params, x: Float[Array, "batch width"]) -> Float[Array, "batch dimension"]:
    """A representation in the shared space, of length 1."""
    x = x.astype(jnp.float32) @ projection["kernel"] + projection["bias"]
    return x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), SMALLEST**2))


def scores(
    anchor: Float[Array, "batch dimension"],
    bank: Float[Array, "examples dimension"],
    drawn: Int[Array, "batch drawn"],
    temperature: Float[Array, ""],
) -> Float[Array, "batch drawn"]:
    """``exp(anchor · bank[drawn] / temperature)``; the product is with the whole bank, whose rows would be larger."""
    return jnp.exp(jnp.take_along_axis(anchor @ bank.T, drawn, axis=1) / temperature)


def normaliser_sums(part, banks, weights, temperature) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """``Σ`` of the scores' means over the examples that count, of both sides, and how many those are."""
    counts = (weights > 0).astype(jnp.float32)
    pairs = ((part["embeddings"][:, 0], banks["teacher"]), (part["embeddings"][:, 1], banks["student"]))
    means = [jnp.mean(scores(one, bank, part["drawn"], temperature), axis=1) for one, bank in pairs]
    return jnp.stack([jnp.sum(counts * mean) for mean in means]), jnp.sum(counts)


def estimation(chances: Float[Array, "batch drawn"], examples: int) -> Float[Array, " batch"]:
    """Noise-contrastive estimation: minus the log-chance that the first is told from noise, and noise from it.

    Example:
      >>> round(float(estimation(jnp.array([[0.25, 0.25]]), examples=4)[0]), 4)  # 2 log 2
      1.3863
    """
    noise = (chances.shape[1] - 1) / examples
    is_pair = chances[:, 0] / (chances[:, 0] + noise + SMALLEST)
    is_noise = noise / (chances[:, 1:] + noise + SMALLEST)
    return -jnp.log(is_pair) - jnp.sum(jnp.log(is_noise), axis=1)


def written(bank, places, embeddings, counts, momentum):
    """The bank with the rows of a batch moved; of an example that is in it several times, towards their mean."""
    same = ((places[:, None] == places) & counts).astype(jnp.float32)
    mean = same @ embeddings / jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1.0)
    moved = momentum * bank.at[places].get(mode="clip") + (1 - momentum) * mean
    moved /= jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(moved), axis=1, keepdims=True), SMALLEST**2))
    return bank.at[jnp.where(counts, places, len(bank))].set(moved, mode="drop")
