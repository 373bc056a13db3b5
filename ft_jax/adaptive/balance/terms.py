"""Loss terms multiplied by weights that a method remembers."""

from ft_jax.core.method import LossTransform


def weighed_terms(name: str, terms: tuple[str, ...]) -> LossTransform:
    """Multiplies the named terms by ``memory[name]["weights"]`` while training; an evaluation sees them as they are.

    Args:
      name: of the method that remembers.
      terms: in the order of its weights.
    """

    def wrap(inner):
        def weighed(params, batch, context):
            values, outputs = inner(params, batch, context)
            if not context.train:
                return values, outputs
            missing = [term for term in terms if term not in values]
            if missing:
                raise KeyError(f"{name} weighs term {missing[0]!r}, but the loss inside it has {', '.join(values)}")
            weights = context.memory[name]["weights"]
            return {**values, **{term: weights[at] * values[term] for at, term in enumerate(terms)}}, outputs

        return weighed

    return wrap
