"""Weights of loss terms learned as the tasks' own noise."""

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.optimizers import scale_updates
from ft_jax.core.params import map_with_path


@register(
    "adaptive",
    paper="Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equations 7 and 10",
    example=lambda problem: uncertainty(("task",)),
    neutral=Neutral({"rate": 0.0}),
)
def uncertainty(
    terms: tuple[str, ...], regression: tuple[str, ...] = (), rate: float = 1.0, *, name: str = "adaptive.uncertainty"
) -> Method:
    """Weighs loss terms by learned noise variances, so that no one tunes their weights.

    With ``s = log σ²`` per term, learned from 0 together with everything else, a classification term ``L``
    becomes ``exp(-s) · L + s / 2`` (equation 10) and a squared-error term ``exp(-s) · L / 2 + s / 2``
    (equation 7). The ``s / 2`` are reported together as one term under the method's name. Terms that are
    not named keep their weight.

    Args:
      terms: the names of the terms to weigh.
      regression: those among them that are mean squared errors.
      rate: the learning rate of the ``s``, as a multiple of the optimizer's; 0 holds all weights at 1.
      name: the method's name; the ``s`` are ``params[name][term]``, scalars.

    Raises:
      ValueError: no terms, or a regression term that is not among them.
      KeyError: when the loss has no term of a given name, with the ones it has.

    Example:
      >>> uncertainty(("task", "backbone")).hyper
      {'rate': 1.0}
    """
    stray = set(regression) - set(terms)
    if not terms or stray:
        raise ValueError(f"{name} weighs terms {terms}, with regression {regression}; name each in terms as well")

    def surgery(params, key):
        return {**params, name: {term: jnp.zeros(()) for term in terms}}

    def loss(inner):
        def weighed(params, batch, context):
            values, outputs = inner(params, batch, context)
            missing = [term for term in terms if term not in values]
            if missing and context.train:
                raise KeyError(f"{name} weighs term {missing[0]!r}, but the loss inside it has {', '.join(values)}")
            result, log_variances = dict(values), context.join(params)[name]
            present = [term for term in terms if term in values]
            for term in present:
                half = 0.5 if term in regression else 1.0
                result[term] = half * jnp.exp(-log_variances[term]) * values[term]
            result[name] = sum((log_variances[term] / 2 for term in present), start=jnp.float32(0))
            return result, outputs

        return weighed

    def update(inner):
        def factors(updates, event):
            rate = event.hyper[name]["rate"]
            return map_with_path(lambda path, _: rate if path.startswith(f"{name}/") else 1.0, updates)

        return scale_updates(inner, factors)

    return Method(name=name, hyper={"rate": rate}, surgery=surgery, loss=loss, weighs=tuple(terms), update=update)
