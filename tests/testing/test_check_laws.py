"""check_laws tells a method that composes from one that does not, and says which law it breaks."""

import jax.numpy as jnp
import pytest

from ft_jax.core import Method, Neutral
from ft_jax.testing import LawBroken, check_laws


def adding(term):
    """A method that adds ``weight · term(params, outputs, batch)``."""

    def loss(inner):
        def added(params, batch, context):
            terms, outputs = inner(params, batch, context)
            value = context.hyper["my.method"]["weight"] * term(outputs, batch)
            return {**terms, "my.method": value}, outputs

        return added

    return Method("my.method", hyper={"weight": 0.1}, loss=loss)


def test_a_term_that_is_no_mean_over_examples_breaks_with_micro_batches_and_devices():
    squared = adding(lambda outputs, batch: jnp.sum(batch["weights"][..., None] * outputs.logits) ** 2 / 1000)
    with pytest.raises(LawBroken, match="(?s)By themselves.*micro batches equal one batch, devices"):
        check_laws(squared, neutral=Neutral({"weight": 0.0}))


def test_a_term_over_padding_breaks_the_law_of_padding():
    unweighted = adding(lambda outputs, batch: jnp.mean(outputs.logits**2))
    with pytest.raises(LawBroken, match="padding counts nothing"):
        check_laws(unweighted, neutral=Neutral({"weight": 0.0}))


def test_a_neutral_point_that_is_none_breaks_zero_strength():
    with pytest.raises(LawBroken, match="zero strength"):
        check_laws(adding(lambda outputs, batch: jnp.mean(outputs.logits**2)), neutral=Neutral({"weight": 0.2}))
