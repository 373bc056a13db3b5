"""What every network's forward pass promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.core.params import map_with_path, replace_weights
from ft_jax.core.weights import LowRank, merge, quantize
from ft_jax.models.networks.parts.attention import Mask, attention

KEY = jax.random.key(0)
IDS = jax.random.randint(jax.random.key(1), (2, 12), 1, 32)


def text_models():
    return [models.tiny_encoder(KEY), models.tiny_decoder(KEY)]


def run(model, params, batch, key=None):
    return jax.jit(model.apply)(params, batch, key)


def with_adapters(model):
    def change(path, weight, key):
        inputs, outputs = weight.shape
        a, b = jax.random.normal(key, (inputs, 2)), 0.1 * jax.random.normal(key, (2, outputs))
        return LowRank(quantize(weight, "int8", 16), a, b, jnp.float32(0.5))

    return replace_weights(model.params, ("layers/*/kernel",), change, KEY)


@pytest.mark.parametrize("model", text_models(), ids=["encoder", "decoder"])
def test_packed_equals_separate(model):
    first, second, third = IDS[:1, :5], IDS[1:, :4], IDS[:1, 5:7]
    packed = jnp.concatenate([first, second, third, jnp.zeros((1, 3), IDS.dtype)], axis=1)
    segments = jnp.array([[1] * 5 + [2] * 4 + [3] * 2 + [0] * 3])
    hidden = run(model, model.params, {"input_ids": packed, "segment_ids": segments}).hidden
    alone = [run(model, model.params, {"input_ids": ids}).hidden for ids in (first, second, third)]
    np.testing.assert_allclose(hidden[:, :11], jnp.concatenate(alone, axis=1), atol=1e-5)


@pytest.mark.parametrize("model", text_models(), ids=["encoder", "decoder"])
def test_padding_changes_nothing(model):
    alone = run(model, model.params, {"input_ids": IDS[:, :7]}).hidden
    mask = jnp.arange(12)[None] < jnp.array([[7], [7]])
    padded = run(model, model.params, {"input_ids": IDS, "attention_mask": mask.astype(jnp.int32)}).hidden
    np.testing.assert_allclose(padded[:, :7], alone, atol=1e-5)


def test_left_padding_changes_nothing_in_a_decoder():
    model = models.tiny_decoder(KEY)
    alone = run(model, model.params, {"input_ids": IDS[:, 5:]}).hidden
    mask = (jnp.arange(12)[None] >= 5).astype(jnp.int32).repeat(2, axis=0)
    padded = run(model, model.params, {"input_ids": IDS, "attention_mask": mask}).hidden
    np.testing.assert_allclose(padded[:, 5:], alone, atol=1e-5)


def test_a_decoder_does_not_see_the_future():
    model = models.tiny_decoder(KEY)
    changed = IDS.at[:, 8:].set(3)
    before, after = (run(model, model.params, {"input_ids": ids}).hidden for ids in (IDS, changed))
    np.testing.assert_allclose(before[:, :8], after[:, :8], atol=1e-6)
    assert not np.allclose(before[:, 8:], after[:, 8:])


def test_layers_run_in_the_order_of_their_numbers():
    # "10" sorts before "2": with twelve layers a sorted dict would run them in another order.
    model = models.tiny_decoder(KEY, layers=12).configure(collect=("hidden",))
    changed = map_with_path(lambda path, x: x + 1 if path.startswith("layers/10/") else x, model.params)
    before, after = (run(model, params, {"input_ids": IDS}).states for params in (model.params, changed))
    for i in range(12):
        assert np.allclose(before[f"layers/{i}"], after[f"layers/{i}"]) == (i < 10)


def all_models():
    image = jax.random.uniform(KEY, (2, 8, 8, 1))
    vit = models.vit(models.ViTConfig(image=(8, 8, 1), patch=4, width=16, layers=2, heads=2, mlp_width=24), KEY)
    mlp = models.mlp(models.MLPConfig(image=(8, 8, 1), widths=(16, 12)), KEY)
    return [(model, {"input_ids": IDS}) for model in text_models()] + [(m, {"images": image}) for m in (vit, mlp)]


@pytest.mark.parametrize(("model", "batch"), all_models(), ids=["encoder", "decoder", "vit", "mlp"])
def test_operators_give_what_their_merged_weights_give(model, batch):
    adapted = with_adapters(model)
    np.testing.assert_allclose(
        run(model, adapted, batch).logits, run(model, merge(adapted), batch).logits, atol=2e-4, rtol=1e-4
    )
    assert not np.allclose(run(model, adapted, batch).logits, run(model, model.params, batch).logits, atol=1e-3)


@pytest.mark.parametrize(("model", "batch"), all_models(), ids=["encoder", "decoder", "vit", "mlp"])
def test_shapes_without_a_key_are_those_of_the_parameters(model, batch):
    make = {"EncoderConfig": models.encoder, "DecoderConfig": models.decoder, "ViTConfig": models.vit}
    abstract = make.get(type(model.config).__name__, models.mlp)(model.config, None)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract.params))
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(lambda leaf: leaf.shape, abstract.params)
    assert abstract.parameters == sum(leaf.size for leaf in jax.tree.leaves(model.params))
    outputs = jax.eval_shape(model.apply, abstract.params, batch)
    assert outputs.hidden.shape == run(model, model.params, batch).hidden.shape


@pytest.mark.parametrize(("model", "batch"), all_models()[:2], ids=["encoder", "decoder"])
@pytest.mark.parametrize("policy", ["dots", "full"])
def test_rematerialising_changes_no_gradient(model, batch, policy):
    model = model.configure(dropout=0.2)

    def gradient(model):
        def loss(params):
            return jnp.square(run(model, params, batch, jax.random.key(3)).logits).mean()

        return jax.jit(jax.grad(loss))(model.params)

    plain, again = gradient(model), gradient(model.configure(remat=policy))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)


@pytest.mark.parametrize(("model", "batch"), all_models(), ids=["encoder", "decoder", "vit", "mlp"])
def test_dropout_depends_on_the_key_alone_and_is_off_without_one(model, batch):
    plain = run(model, model.params, batch).hidden
    model = model.configure(dropout=0.3)
    np.testing.assert_array_equal(run(model, model.params, batch).hidden, plain)
    one, same, other = (run(model, model.params, batch, jax.random.key(k)).hidden for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, plain)


def test_dropout_keeps_the_mean():
    from ft_jax.models.networks.parts.layers import dropout

    dropped = dropout(jnp.ones(100_000), 0.3, KEY)
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.01
    assert abs(float(dropped.mean()) - 1.0) < 0.01


def test_attention_dropout_changes_outputs_in_training_alone():
    model = models.tiny_encoder(KEY)
    batch = {"input_ids": IDS}
    plain = run(model, model.params, batch).hidden
    model = model.configure(attention_dropout=0.5)
    np.testing.assert_array_equal(run(model, model.params, batch).hidden, plain)
    assert not np.allclose(run(model, model.params, batch, KEY).hidden, plain)


@pytest.mark.parametrize(("model", "batch"), all_models(), ids=["encoder", "decoder", "vit", "mlp"])
def test_bfloat16_compute_is_near_and_parameters_stay_float32(model, batch):
    half = model.configure(dtype="bfloat16")
    outputs, plain = run(half, half.params, batch), run(model, model.params, batch)
    assert outputs.hidden.dtype == jnp.bfloat16 and outputs.logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(half.params))
    assert float(jnp.linalg.norm(outputs.logits - plain.logits) / jnp.linalg.norm(plain.logits)) < 0.05
    gradients = jax.jit(jax.grad(lambda params: half.apply(params, batch).logits.mean()))(half.params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("model", "batch"), all_models()[:3], ids=["encoder", "decoder", "vit"])
def test_collected_states_leave_the_output_alone(model, batch):
    plain = run(model, model.params, batch)
    outputs = run(model.configure(collect=("hidden", "attention")), model.params, batch)
    np.testing.assert_allclose(outputs.hidden, plain.hidden, atol=1e-5)
    found = ["attention/0", "attention/1", "embeddings", "layers/0", "layers/1"]
    assert sorted(outputs.states) == found and not plain.states
    maps = outputs.states["attention/1"]
    np.testing.assert_allclose(maps.sum(axis=-1), np.ones(maps.shape[:-1]), atol=1e-5)
    if isinstance(model.config, models.DecoderConfig):
        assert float(jnp.abs(jnp.triu(maps, 1)).max()) == 0.0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_definition(causal, masked):
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, heads, 8)) for i, heads in enumerate((4, 2, 2)))
    allowed = jnp.ones((2, 1, 1, 5), bool).at[1, :, :, 3:].set(False) if masked else None
    got, maps = attention(q, k, v, Mask(allowed, causal), maps=True)
    fused, _ = attention(q, k, v, Mask(allowed, causal))
    expected = np.zeros((2, 5, 4, 8))
    for b in range(2):
        for h in range(4):
            for t in range(5):
                sees = [s for s in range(5) if (not causal or s <= t) and (not masked or bool(allowed[b, 0, 0, s]))]
                scores = np.array([np.dot(q[b, t, h], k[b, s, h // 2]) / np.sqrt(8) for s in sees])
                weights = np.exp(scores) / np.exp(scores).sum()
                expected[b, t, h] = sum(w * np.asarray(v[b, s, h // 2]) for w, s in zip(weights, sees, strict=True))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    assert maps.shape == (2, 4, 5, 5)


def test_members_in_one_vmap_equal_separate_runs():
    model = models.tiny_decoder(KEY)
    stacked = jax.vmap(lambda key: models.tiny_decoder(key).params)(jax.random.split(KEY, 3))
    together = jax.vmap(lambda params: run(model, params, {"input_ids": IDS}).logits)(stacked)
    for member, key in enumerate(jax.random.split(KEY, 3)):
        alone = run(model, models.tiny_decoder(key).params, {"input_ids": IDS}).logits
        np.testing.assert_allclose(together[member], alone, atol=1e-5)


def test_the_same_configuration_compiles_once():
    compiled = jax.jit(lambda apply, params, ids: apply(params, {"input_ids": ids}).hidden, static_argnums=0)
    for seed in range(3):
        model = models.tiny_encoder(jax.random.key(seed))
        compiled(model.apply, model.params, IDS)
    assert compiled._cache_size() == 1


def test_too_long_a_sequence_is_refused():
    model = models.tiny_encoder(KEY)
    with pytest.raises(ValueError, match="33 tokens a sequence and the model takes 32"):
        run(model, model.params, {"input_ids": jnp.ones((1, 33), jnp.int32)})


def test_missing_and_unknown_parameters_are_refused_by_name():
    model = models.tiny_encoder(KEY)
    params = {**model.params, "extra": {"a": jnp.ones(1)}}
    with pytest.raises(ValueError, match="unknown \\['extra/a'\\]"):
        run(model, params, {"input_ids": IDS})
    params = {name: child for name, child in model.params.items() if name != "embeddings"}
    with pytest.raises(ValueError, match="missing \\['embeddings/norm/bias'"):
        run(model, params, {"input_ids": IDS})


def test_a_batch_without_the_model_s_field_is_refused():
    model = models.tiny_encoder(KEY)
    with pytest.raises(KeyError, match="batch has no 'input_ids'"):
        run(model, model.params, {"images": jnp.ones((1, 8, 8, 1))})


def test_images_of_another_size_are_refused():
    model = models.mlp(models.MLPConfig(image=(8, 8, 1), widths=(4,)), KEY)
    with pytest.raises(ValueError, match=r"images has shape \(1, 9, 9, 1\) and the model takes \[batch, 8, 8, 1\]"):
        run(model, model.params, {"images": jnp.ones((1, 9, 9, 1))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads is 3 and must divide width"),
        ({"layers": 0}, "layers is 0; it must be a whole number of at least 1"),
        ({"width": 1.5}, "width is 1.5; it must be a whole number"),
        ({"epsilon": "small"}, "epsilon is 'small'; it must be a number"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"collect": ("maps",)}, "collect has 'maps'"),
        ({"remat": "ful"}, "remat is 'ful'; use one of 'none', 'dots', 'full'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, message):
    config = models.tiny_encoder(None).config
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)
