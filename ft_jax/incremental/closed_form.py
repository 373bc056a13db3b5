"""Heads in closed form on a backbone that stays: one pass over a task's examples, and nothing of earlier ones is
lost."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.batches import counted
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params
from ft_jax.core.state import Batch
from ft_jax.core.weights import materialize, shape
from ft_jax.incremental.examples import examples, no_rows

UNSEEN = -1e9
"""The logit of a class that no example was seen of, while others were."""

NEUTRAL = "it answers in place of the model's own head, so no number makes it train or answer like the step without it"


OUTLINE = {"input_ids": np.zeros((2, 4), np.int32)}
"""A batch as the network of the laws reads it."""


@register(
    "incremental",
    paper="Rebuffi et al. 2017 (iCaRL), arXiv:1611.07725, equation 2; Mensink et al. 2013 (nearest class mean)",
    example=lambda problem: nearest_mean(problem.apply, problem.params, OUTLINE),
    neutral=NEUTRAL,
)
def nearest_mean(
    apply: Callable, params: Params, example: Batch, *, normalise: bool = True, name: str = "incremental.nearest_mean"
) -> Method:
    """Answers with the class whose mean feature is nearest.

    With ``φ`` the hidden state that the head reads, at length 1 where `normalise`, the logits are ``-‖φ - μ_c‖²`` up to
    a constant, ``μ_c`` the mean of a class's features (at length 1 as well). All examples of a task are read once when
    it ends; iCaRL keeps a few exemplars whose mean is near this one, for a backbone that goes on learning. Here means
    stay as the backbone gave them, so what is before the head should not learn after the first task. Training sees the
    model's own head.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      params: its parameters; their shapes matter.
      example: one batch.
      normalise: whether features and means are brought to length 1, as in iCaRL.
      name: the method's name; ``memory[name]`` is ``{"sums" [classes, width], "counts" [classes], "head"}``.

    Raises:
      ValueError: a model without a head, whose classes can't be counted; when a task ends, labels that are no classes.

    Example:
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> method = nearest_mean(apply, {"w": jnp.zeros((4, 3))}, {"x": jnp.zeros((2, 4))})
      >>> method.memory(None, None)["sums"].shape
      (3, 4)
    """

    def features(hidden, own):
        return _unit(hidden) if normalise else hidden

    def start(width, classes, key):
        return {"sums": jnp.zeros((classes, width))}

    def see(own, x, labels, weights):
        return {"sums": own["sums"].at[labels].add(weights[:, None] * x)}

    def solve(own, counts, hyper):
        means = own["sums"] / jnp.maximum(counts, 1)[:, None]
        means = _unit(means) if normalise else means
        return 2 * means.T, -jnp.sum(means**2, axis=1)

    return _closed(name, apply, params, example, features, start, see, solve)


@register(
    "incremental",
    paper="Hayes and Kanan 2020, arXiv:1909.01520, equations 1 to 4",
    example=lambda problem: slda(problem.apply, problem.params, OUTLINE),
    neutral=NEUTRAL,
)
def slda(
    apply: Callable, params: Params, example: Batch, shrinkage: float = 1e-4, *, name: str = "incremental.slda"
) -> Method:
    """Answers by linear discriminant analysis of the features, updated example by example.

    For an example with feature ``z`` of class ``y``, the t-th from 0:
    ``Σ ← (t Σ + Δ) / (t + 1)``, ``Δ = t (z - μ_y)(z - μ_y)ᵀ / (t + 1)``, then ``μ_y ← (n_y μ_y + z) / (n_y + 1)``. The
    logits are ``z·Λμ_c - μ_c·Λμ_c / 2`` with ``Λ = ((1 - ε) Σ + ε I)⁻¹``, ε the shrinkage. A task's examples are read
    once when it ends, in their order; the backbone should not learn after the first task.

    Args:
      apply, params, example: as in `nearest_mean`.
      shrinkage: ε, 1e-4 in the paper.
      name: the method's name; ``memory[name]`` is ``{"means", "covariance", "counts", "head"}``.

    Raises:
      ValueError: a shrinkage outside 0 to 1, and as `nearest_mean`.

    Example:
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> slda(apply, {"w": jnp.zeros((4, 3))}, {"x": jnp.zeros((2, 4))}).memory(None, None)["covariance"].shape
      (4, 4)
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(f"{name} got shrinkage={shrinkage}; give a number above 0, up to 1")

    def start(width, classes, key):
        zeros = {"means": jnp.zeros((classes, width)), "covariance": jnp.zeros((width, width))}
        return {**zeros, "seen": jnp.float32(0), "each": jnp.zeros(classes)}

    def see(own, x, labels, weights):
        def one(own, row):
            z, y, weight = row
            real, t = weight > 0, own["seen"]
            away = z - own["means"][y]
            covariance = (t * own["covariance"] + t / (t + 1) * jnp.outer(away, away)) / (t + 1)
            means = own["means"].at[y].add(away / (own["each"][y] + 1))
            new = {"means": means, "covariance": covariance, "seen": t + 1, "each": own["each"].at[y].add(1.0)}
            return jax.tree.map(lambda new, old: jnp.where(real, new, old), new, own), None

        return jax.lax.scan(one, own, (x, labels, weights))[0]

    def solve(own, counts, hyper):
        width, epsilon = own["covariance"].shape[0], hyper["shrinkage"]
        shrunk = (1 - epsilon) * own["covariance"] + epsilon * jnp.eye(width)
        kernel = jnp.linalg.solve(shrunk, own["means"].T)
        return kernel, -0.5 * jnp.sum(own["means"] * kernel.T, axis=1)

    hyper = {"shrinkage": shrinkage}
    return _closed(name, apply, params, example, lambda hidden, own: hidden, start, see, solve, hyper)


@register(
    "incremental",
    paper="McDonnell et al. 2023, arXiv:2307.02251, equations 5 to 7",
    example=lambda problem: ranpac(problem.apply, problem.params, OUTLINE, width=24),
    neutral=NEUTRAL,
)
def ranpac(
    apply: Callable,
    params: Params,
    example: Batch,
    width: int = 2000,
    ridge: float = 1.0,
    *,
    name: str = "incremental.ranpac",
) -> Method:
    """Answers by ridge regression onto the classes from many random features.

    With ``h = relu(φ R)``, R drawn once from N(0, 1), ``G = Σ h hᵀ`` and ``C = Σ h onehot(y)ᵀ`` over all examples so
    far, the logits are ``h·(G + ridge I)⁻¹ C``. A task's examples are read once when it ends, and any order gives the
    same. The backbone should not learn after the first task. The paper chooses the ridge on held-out examples, from
    1e-8 to 1e8; here it is a number of the state, so several can be tried at once by `ft_jax.tuning.population`.

    Args:
      apply, params, example: as in `nearest_mean`.
      width: of the random features, M in the paper, 10000 there. Their products take ``4 width²`` bytes.
      ridge: λ.
      name: the method's name; ``memory[name]`` is ``{"projection", "gram", "cross", "counts", "head"}``.

    Raises:
      ValueError: a width below 1, a ridge that is not positive, and as `nearest_mean`.

    Example:
      >>> apply = lambda params, batch, key: Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> method = ranpac(apply, {"w": jnp.zeros((4, 3))}, {"x": jnp.zeros((2, 4))}, width=50)
      >>> method.memory(None, jax.random.key(0))["cross"].shape
      (50, 3)
    """
    if width < 1 or not ridge > 0:
        raise ValueError(f"{name} has width {width} and ridge {ridge}; give a width of at least 1 and a ridge above 0")

    def features(hidden, own):
        return jax.nn.relu(hidden @ own["projection"])

    def start(inputs, classes, key):
        projection = jax.random.normal(jax.random.key(0) if key is None else key, (inputs, width))
        return {"projection": projection, "gram": jnp.zeros((width, width)), "cross": jnp.zeros((width, classes))}

    def see(own, x, labels, weights):
        kept = x * (weights > 0)[:, None]
        classes = jax.nn.one_hot(labels, own["cross"].shape[1])
        return {**own, "gram": own["gram"] + kept.T @ kept, "cross": own["cross"] + kept.T @ classes}

    def solve(own, counts, hyper):
        kernel = jax.scipy.linalg.solve(own["gram"] + hyper["ridge"] * jnp.eye(width), own["cross"], assume_a="pos")
        return kernel, jnp.zeros(kernel.shape[1])

    return _closed(name, apply, params, example, features, start, see, solve, {"ridge": ridge}, width)


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _closed(name, apply, params, example, features, start, see, solve, hyper=None, wide=None) -> Method:
    """A head that is solved from sums over examples.

    Args:
      name: of the method.
      apply, params, example: of the model.
      features: ``(hidden, sums) -> features``.
      start: ``(width, classes, key) -> sums``.
      see: ``(sums, features [rows, wide], labels [rows], weights [rows]) -> sums``.
      solve: ``(sums, counts [classes], numbers) -> (kernel [wide, classes], bias [classes])``.
      hyper: numbers.
      wide: how many features there are; as many as the hidden state has by default.
    """
    outline = jax.eval_shape(lambda params, batch: apply(params, batch, None), params, dict(example))
    if outline.unembedding is None:
        raise ValueError(
            f"{name} answers in place of a head, and the model has none to count the classes of; give it one"
        )
    width, classes = outline.hidden.shape[-1], shape(outline.unembedding)[-1]

    def memory(params, key):
        head = {"kernel": jnp.zeros((wide or width, classes)), "bias": jnp.zeros(classes)}
        return {**start(width, classes, key), "counts": jnp.zeros(classes), "head": head}

    def forward(inner):
        def answered(params, batch, context):
            outputs = inner(params, batch, context)
            if context.train:
                return outputs
            own = context.memory[name]
            seen, hidden = own["counts"] > 0, outputs.hidden.astype(jnp.float32)
            any_seen = jnp.any(seen)
            before = materialize(outputs.unembedding).astype(jnp.float32)
            bias = jnp.zeros(classes) if outputs.bias is None else outputs.bias.astype(jnp.float32)
            # Both heads side by side, of which one is 0: until a task has ended it is the model's own that answers.
            return Outputs(
                hidden=jnp.concatenate([hidden, features(hidden, own)], axis=-1),
                unembedding=jnp.concatenate(
                    [jnp.where(any_seen, 0.0, before), jnp.where(any_seen, own["head"]["kernel"], 0.0)]
                ),
                bias=jnp.where(any_seen, jnp.where(seen, own["head"]["bias"], UNSEEN), bias),
                states={**outputs.states, name: outputs.hidden},
            )

        return answered

    def after_task(state, event):
        batches = examples(event.batches, ("labels",), leading=1)
        if batches is None or not jnp.issubdtype(batches["labels"].dtype, jnp.integer):
            raise ValueError(
                f"{name} needs 'labels' that are classes, and the batches that end the task have none; add them"
            )
        own = state.memory[name]
        sums = {field: value for field, value in own.items() if field not in ("counts", "head")}

        def body(carry, batch):
            sums, counts = carry
            _, outputs = event.loss(state.params, batch, event.context)
            hidden, labels = outputs.states[name], batch["labels"].reshape(-1)
            x = features(hidden.reshape(-1, hidden.shape[-1]).astype(jnp.float32), own)
            if x.shape[0] != labels.shape[0]:
                raise ValueError(
                    f"{name} has {labels.shape[0]} labels for {x.shape[0]} hidden states; give each of them one"
                )
            weights = jnp.where((labels >= 0) & (counted(batch).reshape(-1) > 0), 1.0, 0.0)
            labels = jnp.maximum(labels, 0)
            return (see(sums, x, labels, weights), counts.at[labels].add(weights)), None

        (sums, counts), _ = jax.lax.scan(body, (sums, own["counts"]), dict(batches))
        kernel, bias = solve(sums, counts, state.hyper.get(name, {}))
        return state.remember(name, {**own, **sums, "counts": counts, "head": {"kernel": kernel, "bias": bias}})

    return Method(
        name=name,
        hyper=hyper or {},
        memory=memory,
        forward=forward,
        after_task=after_task,
        aligned=True,
        refuses=no_rows(name),
    )
