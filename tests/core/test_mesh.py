import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ft_jax.core.losses import LOGITS_PER_CHUNK, chunk_sizes, default_chunk
from ft_jax.core.mesh import batch_shards, rows_whole, split_by_example, traced_device, traced_for
from ft_jax.core.outputs import Outputs
from ft_jax.training import Mesh

WIDE = jax.ShapeDtypeStruct((8, 4096, 32), jnp.float32)
HEAD = jax.ShapeDtypeStruct((32, 2**20), jnp.float32)


def grid(data, fsdp, tensor):
    return Mesh(data, fsdp, tensor).build(jax.devices())


def test_a_batch_is_split_over_data_and_fsdp_and_not_over_tensor():
    assert batch_shards() == 1
    with traced_for(grid(2, 2, 2)):
        assert batch_shards() == 4
    assert batch_shards() == 1


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((4, 3))
    assert split_by_example(x) is x and rows_whole(x) is x


def test_a_batch_that_does_not_divide_is_left_as_it_is():
    with traced_for(grid(2, 2, 2)):
        x = jnp.ones((6, 3))
        assert split_by_example(x) is x


@pytest.mark.parametrize("fsdp", [1, 4])
def test_examples_stay_where_their_batch_is_though_a_weight_is_split(fsdp):
    mesh = grid(8 // fsdp, fsdp, 1)
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731
    x = jax.device_put(np.arange(64.0, dtype=np.float32).reshape(8, 8), place(("data", "fsdp")))
    w = jax.device_put(np.eye(8, dtype=np.float32), place(None, "fsdp"))

    @jax.jit
    def through(x, w):
        with traced_for(mesh):
            return split_by_example(x @ w)

    y = through(x, w)
    np.testing.assert_array_equal(y, x)
    assert y.sharding.shard_shape(y.shape) == (1, 8)


def test_members_are_split_by_example_too():
    mesh = grid(8, 1, 1)

    @jax.jit
    def through(x):
        with traced_for(mesh):
            return jax.vmap(split_by_example)(x)

    x = jnp.ones((2, 8, 3))
    assert through(jax.device_put(x, NamedSharding(mesh, PartitionSpec()))).sharding.shard_shape(x.shape) == (2, 1, 3)


def test_a_chunk_is_bounded_on_each_device():
    outputs = Outputs(hidden=WIDE, unembedding=HEAD)
    rows = LOGITS_PER_CHUNK // 2**20
    assert default_chunk(outputs) == rows // 8
    with traced_for(grid(2, 2, 2)):
        assert default_chunk(outputs) == rows // 2
        assert chunk_sizes(outputs) == (rows // 2, rows // 2)


def test_the_device_is_the_meshs_then_the_default_one():
    first, last = jax.devices()[0], jax.devices()[-1]
    assert traced_device() == first
    with jax.default_device(last):
        assert traced_device() == last
        with traced_for(grid(8, 1, 1)):
            assert traced_device() == first
    with jax.default_device("cpu"):
        assert traced_device() == first
