import jax
import jax.numpy as jnp
import pytest
from core import tiny
from hypothesis import given
from hypothesis import strategies as st

from ft_jax.core import LowRank, combine, never, only, partition, quantize, replace_weights
from ft_jax.core.params import count, digest, learns, paths

VERDICTS = st.lists(st.sampled_from([True, False, None]), max_size=5)


def test_partition_and_combine_are_inverse():
    params = {"model": tiny.params()}
    trainable, frozen = partition(params, [only("*/head/*")])
    assert paths(trainable) == ["model/head/kernel"]
    assert count(trainable) + count(frozen) == count(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, combine(trainable, frozen), params))


@given(VERDICTS, VERDICTS)
def test_verdicts_do_not_depend_on_order_or_grouping(one, other):
    def filters(verdicts):
        return [lambda path, leaf, verdict=verdict: verdict for verdict in verdicts]

    assert learns(filters(one + other), "x", None) == learns(filters(other + one), "x", None)
    assert learns(filters(one + one), "x", None) == learns(filters(one), "x", None)


def test_without_an_opinion_everything_learns():
    trainable, frozen = partition({"model": tiny.params()}, [])
    assert not jax.tree.leaves(frozen) and len(jax.tree.leaves(trainable)) == 4


def test_a_methods_own_parameters_learn_unless_it_says_never():
    params = {"model": {"w": jnp.ones(2)}, "extra": {"s": jnp.ones(1)}, "teacher": {"w": jnp.ones(3)}}
    trainable, _ = partition(params, [only("*/w"), never("teacher/*")])
    assert set(paths(trainable)) == {"extra/s", "model/w"}


def test_a_quantised_code_asked_to_learn_is_refused():
    params = {"model": {"kernel": quantize(jnp.ones((8, 8)))}}
    with pytest.raises(ValueError, match="model/kernel/codes has type uint8 and can't learn"):
        partition(params, [only("*")])
    assert not paths(partition(params, [only("*/a")])[0])


def test_surgery_replaces_what_matches_and_keys_depend_on_the_path_alone():
    def change(path, weight, key):
        return LowRank(weight, jax.random.normal(key, (weight.shape[0], 2)), jnp.zeros((2, 16)), jnp.float32(1))

    both = replace_weights(tiny.params(), ["layer/*", "table"], change, jax.random.key(0))
    alone = replace_weights(tiny.params(), ["layer/*"], change, jax.random.key(0))
    assert isinstance(both["table"], LowRank) and not isinstance(alone["table"], LowRank)
    assert jnp.array_equal(both["layer"]["kernel"].a, alone["layer"]["kernel"].a)


def test_a_pattern_that_matches_nothing_names_the_nearest_paths():
    with pytest.raises(ValueError, match=r"no weight matches \*/kernle; the nearest paths are .*head/kernel"):
        replace_weights(tiny.params(), ["*/kernle"], lambda path, weight, key: weight, jax.random.key(0))


def test_digests_are_the_same_in_every_process():
    assert digest("transfer.lora") == 555711575
