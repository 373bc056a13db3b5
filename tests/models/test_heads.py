"""What each kind of head reads and gives, and that it is saved with its model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import GOLDEN, recorded
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.models.architectures import architecture_for, architecture_of, flat

KEY = jax.random.key(0)
IDS = jax.random.randint(jax.random.key(1), (3, 9), 1, 32)
MASK = jnp.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 6 + [1] * 3])
BATCH = {"input_ids": IDS, "attention_mask": MASK}
DECODER = models.tiny_decoder(KEY)
HIDDEN = np.asarray(DECODER.apply(DECODER.params, BATCH).hidden)
LAST = np.stack([h[np.flatnonzero(m)[-1]] for h, m in zip(HIDDEN, np.asarray(MASK), strict=True)])
MEAN = np.stack([h[m > 0].mean(axis=0) for h, m in zip(HIDDEN, np.asarray(MASK), strict=True)])


def headed(kind, **options):
    model = models.with_head(DECODER, kind, jax.random.key(2), **options)
    return model, model.apply(model.params, BATCH)


@pytest.mark.parametrize(
    ("kind", "options", "read", "bias"),
    [
        ("classification", {"outputs": 4}, MEAN, True),
        ("regression", {}, MEAN, True),
        ("regression", {"outputs": 3, "pooling": "last"}, LAST, True),
        ("token_classification", {"outputs": 5}, HIDDEN, True),
        ("reward", {}, LAST, False),
        ("value", {}, HIDDEN, True),
    ],
)
def test_a_head_reads_what_its_kind_says(kind, options, read, bias):
    model, outputs = headed(kind, **options)
    head = model.params["head"]
    assert ("bias" in head) == bias and head["kernel"].shape == (16, options.get("outputs", 1))
    np.testing.assert_allclose(outputs.hidden, read, atol=1e-5)
    expected = read @ np.asarray(head["kernel"]) + np.asarray(head.get("bias", 0.0))
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def test_an_embedding_is_the_pooled_vector_with_length_one():
    model, outputs = headed("embedding")
    assert "head" not in model.params and outputs.unembedding is None
    np.testing.assert_allclose(outputs.hidden, MEAN / np.linalg.norm(MEAN, axis=-1, keepdims=True), atol=1e-5)


def test_a_language_model_is_what_remains_when_a_head_is_taken_off():
    encoder = models.tiny_encoder(KEY)
    again = models.with_head(models.with_head(encoder, "value", KEY), "language_model", None)
    np.testing.assert_array_equal(again.apply(again.params, BATCH).logits, encoder.apply(encoder.params, BATCH).logits)
    assert models.with_head(DECODER, "language_model", None) is DECODER


@pytest.mark.parametrize("kind", ["token_classification", "reward", "value", "regression", "embedding"])
def test_a_head_is_saved_with_its_model(kind, tmp_path):
    outputs = {"outputs": 3} if kind == "token_classification" else {}
    model, before = headed(kind, **outputs)
    models.save(model, model.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert (again.apply.kind, again.apply.pooling) == (kind, model.apply.pooling)
    after = again.apply(again.params, BATCH)
    np.testing.assert_array_equal(after.hidden, before.hidden)
    if kind != "embedding":
        np.testing.assert_array_equal(after.logits, before.logits)


PUBLISHED = {
    "tiny_bert_classifier": "classification",
    "tiny_bert_regression": "regression",
    "tiny_roberta_classifier": "classification",
    "tiny_roberta_tagger": "token_classification",
    "tiny_distilbert_classifier": "classification",
    "tiny_modernbert_classifier": "classification",
    "tiny_modernbert_first": "classification",
    "tiny_modernbert_tagger": "token_classification",
    "tiny_llama_reward": "reward",
    "tiny_qwen2_classifier": "classification",
    "tiny_qwen3_tagger": "token_classification",
    "tiny_gpt2_classifier": "classification",
    "tiny_gpt2_tagger": "token_classification",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_heads_that_transformers_saved_make_the_round_trip(name, tmp_path):
    case = recorded(name)
    batch, kind = case.batch(), PUBLISHED[name]
    assert case.model.apply.kind == kind
    real = np.asarray(batch["attention_mask"]) > 0

    def loss(params):
        logits = case.model.apply(params, batch).logits
        return (logits * case.arrays["probe"]).sum(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(case.model.params)
    gaps = np.abs(np.asarray(logits) - case.output("logits"))
    assert gaps[real if gaps.ndim == 3 else ...].max() < 2e-5
    table = dict(architecture_for(case.model.config).heads(case.model.config)[0].tensors)
    leaves = flat(gradients)
    for path, tensor in table.items():
        want = case.arrays.get(f"gradient/{tensor.name}")
        if want is not None and kind != "token_classification":
            np.testing.assert_allclose(leaves[path], tensor.read(want), rtol=1e-4, atol=1e-4)
    models.save(case.model, case.model.params, tmp_path / "saved")
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", case.folder))
    assert sorted(saved) == sorted(original)
    for tensor in original:
        np.testing.assert_array_equal(saved[tensor], original[tensor], err_msg=tensor)
    classes = [json.loads((f / "config.json").read_text())["architectures"] for f in (tmp_path / "saved", case.folder)]
    assert classes[0] == classes[1]


@pytest.mark.parametrize("name", ["tiny_roberta", "tiny_distilbert", "tiny_modernbert", "tiny_bert", "tiny_qwen2"])
@pytest.mark.parametrize("kind", ["classification", "token_classification", "regression"])
def test_a_published_head_is_transformers_class(name, kind, tmp_path):
    model = models.load(GOLDEN / name, tokenizer=False)
    outputs = None if kind == "regression" else 3
    before, model = model, models.with_head(model, kind, KEY, outputs, "published")
    if name == "tiny_modernbert":
        # transformers begins a classifier's layer at that of the masked-language head, which has the same name.
        jax.tree.map(np.testing.assert_array_equal, model.params["head"]["dense"], before.params["prediction"]["dense"])
    models.save(model, model.params, tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    wanted = "TokenClassification" if kind == "token_classification" else "SequenceClassification"
    assert config["architectures"][0].endswith(wanted)
    # As transformers would write it, without a word of this library.
    config.pop("ft_jax_head")
    (tmp_path / "saved/config.json").write_text(json.dumps(config))
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert again.apply == model.apply
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_classifier_is_never_taken_for_a_language_model():
    folder = GOLDEN / "tiny_modernbert_classifier"
    config = json.loads((folder / "config.json").read_text())
    names = set(load_file(folder / "model.safetensors"))
    assert not architecture_of("modernbert").read(config, names).prediction
    with pytest.raises(ValueError, match="transformers has no head 'value' for llama"):
        models.with_head(DECODER, "value", KEY, pooling="published")


def test_a_classifier_of_images_is_saved_with_its_model(tmp_path):
    config = models.ViTConfig(image=(8, 8, 1), patch=4, width=16, layers=1, heads=2, mlp_width=24, classes=3)
    model = models.with_head(models.vit(config, KEY), "regression", KEY, outputs=2)
    models.save(model, model.params, tmp_path / "saved")
    again, images = models.load(tmp_path / "saved", tokenizer=False), {"images": jnp.ones((2, 8, 8, 1))}
    np.testing.assert_array_equal(again.apply(again.params, images).logits, model.apply(model.params, images).logits)
    vectors = models.with_head(model, "embedding", None)
    norms = jnp.linalg.norm(vectors.apply(vectors.params, images).hidden, axis=-1)
    np.testing.assert_allclose(norms, np.ones(2), atol=1e-6)


def test_a_head_without_a_key_is_shapes_alone():
    model = models.with_head(models.tiny_decoder(None), "reward", None)
    assert model.params["head"] == {"kernel": jax.ShapeDtypeStruct((16, 1), jnp.float32)}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("colour", {}, "head 'colour' is unknown; use 'classification'"),
        ("classification", {}, "head 'classification' needs a number of classes"),
        ("token_classification", {"outputs": 0}, "classes is 0"),
        ("reward", {"outputs": 2}, "head 'reward' has 1 outputs and can't have 2"),
        ("value", {"pooling": "last"}, "head 'value' reads every token and pools none"),
        ("regression", {"pooling": "max"}, "pooling 'max' is unknown"),
    ],
)
def test_a_head_that_cannot_be_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        models.with_head(DECODER, kind, KEY, **options)


def test_tokens_of_images_have_no_head():
    vit = models.vit(models.ViTConfig(image=(8, 8, 1), patch=4, width=16, layers=1, heads=2), None)
    with pytest.raises(ValueError, match="head 'value' reads tokens and ViTConfig gives one vector an image"):
        models.with_head(vit, "value", None)
    with pytest.raises(ValueError, match="ViTConfig has no tokens to give logits over"):
        models.with_head(vit, "language_model", None)
