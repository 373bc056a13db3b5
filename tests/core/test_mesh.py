import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ft_jax import incremental, meta, models, transfer
from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.losses import MEMORY_SHARE, MOST_LOGITS, chunk_sizes, default_chunk
from ft_jax.core.members import map_members
from ft_jax.core.mesh import (
    MEMORY,
    batch_shards,
    rows_whole,
    split_by_example,
    traced_device,
    traced_for,
    traced_memory,
)
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


class Device:
    """What a device says of its memory."""

    def __init__(self, told):
        self.told = told

    def memory_stats(self):
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def test_a_chunk_is_bounded_on_each_device(monkeypatch):
    outputs = Outputs(hidden=WIDE, unembedding=HEAD)
    rows = MEMORY // (4 * MEMORY_SHARE * 2**20)
    assert rows == 64 and default_chunk(outputs) == rows // 8
    with traced_for(grid(2, 2, 2)):
        assert default_chunk(outputs) == rows // 2
        assert chunk_sizes(outputs) == (rows // 2, rows // 2)
    for memory, steps in ((2**32, rows // 32), (3 * 2**32, rows // 16), (2**40, MOST_LOGITS // 2**23)):
        monkeypatch.setattr("ft_jax.core.mesh.traced_device", lambda memory=memory: Device({"bytes_limit": memory}))
        assert default_chunk(outputs) == steps


def test_memory_is_what_the_device_says_where_processes_can_agree(monkeypatch):
    absent = jax.errors.JaxRuntimeError("only supported for addressable devices")
    for told, memory in ((None, MEMORY), ({}, MEMORY), (absent, MEMORY), ({"bytes_limit": 80}, 80)):
        monkeypatch.setattr("ft_jax.core.mesh.traced_device", lambda told=told: Device(told))
        assert traced_memory() == memory
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert traced_memory() == MEMORY


def test_copies_of_a_mapped_program_share_the_memory_of_a_chunk():
    """Members, a meta-learner's tasks, a Fisher's examples: a loop over chunks is as many times longer as they are."""
    model = models.decoder(
        models.DecoderConfig(
            vocabulary=2**20, width=8, layers=1, heads=1, key_value_heads=1, head_width=8, mlp_width=8, tied=False
        ),
        None,
    )
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    batch = {"input_ids": ids, "labels": ids}

    def lengths(method, batch, copies=0):
        program = make_step(supervised(model.apply), optimizer(optax.sgd, learning_rate=0.1), method)
        program = map_members(program, copies) if copies else program
        state = jax.eval_shape(program.init, model.params, jax.random.key(0))
        return set(map(int, re.findall(r"length=(\d+)", str(jax.make_jaxpr(program.step)(state, batch)))))

    def of_the_fisher(count):
        program = make_step(supervised(model.apply), optimizer(optax.sgd, learning_rate=0.1), incremental.ewc())
        state = jax.eval_shape(program.init, model.params, jax.random.key(0))
        seen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, count, *leaf.shape[1:]), leaf.dtype), batch)
        return set(map(int, re.findall(r"length=(\d+)", str(jax.make_jaxpr(program.after_task)(state, seen)))))

    assert of_the_fisher(1) == {1} and of_the_fisher(4) == {1, 4}
    frozen = transfer.lora(rank=1)
    assert lengths(frozen, batch) == {2} and lengths(frozen, batch, copies=4) == {8}
    tasks = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), batch)
    assert lengths(compose(meta.maml(), frozen), {"support": tasks, "query": tasks}) == {8}


def test_the_device_is_the_meshs_then_the_default_one():
    first, last = jax.devices()[0], jax.devices()[-1]
    assert traced_device() == first
    with jax.default_device(last):
        assert traced_device() == last
        with traced_for(grid(8, 1, 1)):
            assert traced_device() == first
    with jax.default_device("cpu"):
        assert traced_device() == first
