import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.models.networks.parts.layers import DROPOUT_LEVELS, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("shape", [(400, 301), (120_000,), (2, 300, 200)])
def test_values_are_dropped_at_the_rate_and_the_others_keep_the_mean(rate, shape):
    found = np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(3)))
    deviation = np.sqrt(rate * (1 - rate) / found.size)
    assert abs(np.mean(found == 0) - rate) < 4 * deviation
    kept = round((1 - rate) * DROPOUT_LEVELS) / DROPOUT_LEVELS
    np.testing.assert_allclose(found[found != 0], 1 / kept, rtol=1e-6)


def test_places_are_dropped_independently_of_each_other():
    dropped = np.asarray(dropout(jnp.ones((4000, 65)), 0.5, jax.random.key(3)) == 0, np.float64)
    correlation = np.corrcoef(dropped.T) - np.eye(65)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_each_key_drops_its_own_places_also_under_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: dropout(jnp.ones((4, 7)), 0.5, key))(keys)
    for key, found in zip(keys, together, strict=True):
        np.testing.assert_array_equal(found, dropout(jnp.ones((4, 7)), 0.5, key))
    assert np.any(together[0] != together[1])


def test_everything_is_dropped_at_rate_one_and_nothing_at_zero():
    x = jnp.arange(6.0).reshape(2, 3)
    assert not np.any(dropout(x, 1.0, jax.random.key(0)))
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
    np.testing.assert_array_equal(dropout(x, 0.3, None), x)
