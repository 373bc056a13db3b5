"""Heads, pooling and configuration of a model value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.core.weights import Transposed

KEY = jax.random.key(0)
IDS = jax.random.randint(jax.random.key(1), (3, 9), 1, 32)
MASK = jnp.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 6 + [1] * 3])
BATCH = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", lambda hidden, mask: np.stack([h[m].mean(axis=0) for h, m in zip(hidden, mask, strict=True)])),
        ("cls", lambda hidden, mask: hidden[:, 0]),
        ("last", lambda hidden, mask: np.stack([h[m][-1] for h, m in zip(hidden, mask, strict=True)])),
    ],
)
def test_a_classifier_reads_the_pooled_vector(pooling, expected):
    backbone = models.tiny_encoder(KEY)
    model = models.with_classifier(backbone, 4, jax.random.key(2), pooling)
    outputs = model.apply(model.params, BATCH)
    hidden = np.asarray(backbone.apply(backbone.params, BATCH).hidden)
    pooled = expected(hidden, np.asarray(MASK).astype(bool))
    np.testing.assert_allclose(outputs.hidden, pooled, atol=1e-5)
    head = model.params["head"]
    np.testing.assert_allclose(outputs.logits, pooled @ head["kernel"] + head["bias"], atol=1e-5)


def test_token_logits_stay_at_hand_beside_a_classifier():
    backbone = models.tiny_encoder(KEY)
    model = models.with_classifier(backbone, 4, KEY)
    np.testing.assert_array_equal(
        backbone.apply(model.params, BATCH).logits, backbone.apply(backbone.params, BATCH).logits
    )


def test_an_encoder_unembeds_with_its_token_table():
    model = models.tiny_encoder(KEY)
    outputs = model.apply(model.params, BATCH)
    assert isinstance(outputs.unembedding, Transposed)
    np.testing.assert_allclose(outputs.logits, outputs.hidden @ model.params["embeddings"]["tokens"].T, atol=1e-5)


def test_a_classifier_replaces_a_decoder_s_own_head():
    model = models.with_classifier(models.tiny_decoder(KEY), 3, KEY, "last")
    assert model.params["head"]["kernel"].shape == (16, 3)
    assert model.apply(model.params, BATCH).logits.shape == (3, 3)


def test_a_classifier_without_a_key_is_shapes_alone():
    model = models.with_classifier(models.tiny_encoder(None), 3, None)
    assert model.params["head"]["kernel"] == jax.ShapeDtypeStruct((16, 3), jnp.float32)
    assert model.parameters == models.tiny_encoder(None).parameters + 16 * 3 + 3


def test_a_vision_model_gets_a_head_of_another_size():
    model = models.mlp(models.MLPConfig(image=(8, 8, 1), widths=(4,)), KEY)
    other = models.with_classifier(model, 5, KEY)
    assert other.apply(other.params, {"images": jnp.ones((2, 8, 8, 1))}).logits.shape == (2, 5)


def test_a_network_without_classes_gives_features_alone():
    model = models.vit(models.ViTConfig(image=(8, 8, 1), patch=4, width=16, layers=1, heads=2, classes=None), KEY)
    outputs = model.apply(model.params, {"images": jnp.ones((2, 8, 8, 1))})
    assert outputs.hidden.shape == (2, 16) and outputs.unembedding is None and "head" not in model.params


def test_sentence_embeddings_have_length_one_and_ignore_padding():
    model = models.tiny_encoder(KEY)
    vectors = models.sentence_embedding(model.apply(model.params, BATCH), MASK)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), np.ones(3), atol=1e-6)
    short = {"input_ids": IDS[1:2, :5]}
    alone = models.sentence_embedding(model.apply(model.params, short), jnp.ones((1, 5)))
    np.testing.assert_allclose(vectors[1:2], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "pooling", "message"),
    [
        (0, "mean", "classes is 0"),
        (2, "max", "pooling 'max' is unknown"),
        (2, "pooler", "needs a model with BERT's pooler"),
    ],
)
def test_a_head_that_cannot_be_is_refused(classes, pooling, message):
    with pytest.raises(ValueError, match=message):
        models.with_classifier(models.tiny_encoder(KEY), classes, KEY, pooling)


def test_configure_refuses_unknown_fields_and_changes_of_shape():
    model = models.tiny_encoder(KEY)
    with pytest.raises(ValueError, match="EncoderConfig has no 'colour'"):
        model.configure(colour=1)
    with pytest.raises(ValueError, match="changing width changes the parameters' shapes"):
        model.configure(width=32)
