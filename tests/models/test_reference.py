"""The same checkpoint gives what transformers gives (recorded by tests/golden/record_models.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ft_jax import assets, models
from ft_jax.models.architectures import architecture_for, flat

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = [
    ("tiny_bert", "right"),
    ("tiny_llama", "right"),
    ("tiny_llama", "left"),
    ("tiny_qwen2", "right"),
    ("tiny_qwen2", "left"),
]


def recorded(name, side):
    arrays = np.load(GOLDEN / name / "outputs.npz")
    batch = {field: jnp.asarray(arrays[f"{side}/{field}"]) for field in ("input_ids", "attention_mask")}
    return arrays, batch


@pytest.mark.parametrize(("name", "side"), TINY)
def test_hidden_states_and_logits_equal_the_reference(name, side):
    model = models.load(GOLDEN / name, tokenizer=False).configure(collect=("hidden",))
    arrays, batch = recorded(name, side)
    outputs = jax.jit(model.apply)(model.params, batch)
    real = np.asarray(batch["attention_mask"]).astype(bool)
    count = model.config.layers
    for i in range(count):
        expected = arrays[f"{side}/hidden/{i + 1}"]
        # transformers normalises the last of a decoder's hidden states.
        got = outputs.hidden if i == count - 1 else outputs.states[f"layers/{i}"]
        np.testing.assert_allclose(np.asarray(got)[real], expected[real], atol=2e-5)
    if f"{side}/logits" in arrays:
        np.testing.assert_allclose(np.asarray(outputs.logits)[real], arrays[f"{side}/logits"][real], atol=2e-5)


@pytest.mark.parametrize(("name", "side"), [("tiny_bert", "right"), ("tiny_llama", "left"), ("tiny_qwen2", "left")])
def test_gradients_equal_the_reference(name, side):
    model = models.load(GOLDEN / name, tokenizer=False)
    arrays, batch = recorded(name, side)
    probe, has_logits = arrays[f"{side}/probe"], f"{side}/logits" in arrays

    def loss(params):
        outputs = model.apply(params, batch)
        return ((outputs.logits if has_logits else outputs.hidden) * probe).sum()

    gradients = flat(jax.jit(jax.grad(loss))(model.params))
    expected = load_file(GOLDEN / name / "gradients.st")
    table = architecture_for(model.config).tensors(model.config)
    assert len(expected) >= len(table) - 2  # BERT's pooler has no gradient there
    for path, tensor in table.items():
        want = tensor.read(expected[tensor.name]) if tensor.name in expected else np.zeros_like(gradients[path])
        scale = max(1.0, np.abs(want).max())
        np.testing.assert_allclose(gradients[path] / scale, want / scale, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen2"])
def test_greedy_generation_equals_the_reference(name):
    model = models.load(GOLDEN / name, tokenizer=False)
    arrays, batch = recorded(name, "right")
    got = models.generate(model, model.params, batch["input_ids"][:1], max_new_tokens=20, stop_tokens=())
    np.testing.assert_array_equal(got.tokens[0], arrays["greedy"])


def test_minilm_sentence_embeddings_equal_the_reference():
    arrays = np.load(GOLDEN / "minilm.npz")
    model = models.load(assets.MINILM)
    batch = dict(model.tokenizer(list(arrays["sentences"]), padding=True, return_tensors="np"))
    np.testing.assert_array_equal(batch["input_ids"], arrays["input_ids"])
    outputs = jax.jit(model.apply)(model.params, batch)
    got = models.sentence_embedding(outputs, batch["attention_mask"])
    np.testing.assert_allclose(got, arrays["embeddings"], atol=1e-4)


@pytest.fixture(scope="module")
def smollm2():
    return models.load(assets.SMOLLM2)


@pytest.fixture(scope="module")
def smollm2_recorded():
    return np.load(GOLDEN / "smollm2.npz")


def test_smollm2_tokens_and_chat_template_equal_the_reference(smollm2, smollm2_recorded):
    texts = list(smollm2_recorded["texts"])
    for i, chat in json.loads(str(smollm2_recorded["chats"])).items():
        text = smollm2.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert text == texts[int(i)]
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(smollm2.tokenizer(str(text))["input_ids"], smollm2_recorded[f"input_ids/{i}"])
        assert smollm2.tokenizer.decode(smollm2_recorded[f"input_ids/{i}"]) == text


def smollm2_batch(recorded):
    rows = [recorded[f"input_ids/{i}"] for i in range(5)]
    longest = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
    mask = np.stack([np.arange(longest) < len(row) for row in rows]).astype(np.int32)
    return rows, {"input_ids": ids, "attention_mask": mask}


def test_smollm2_logits_equal_the_reference(smollm2, smollm2_recorded):
    rows, batch = smollm2_batch(smollm2_recorded)
    logits = np.asarray(jax.jit(lambda params, batch: smollm2.apply(params, batch).logits)(smollm2.params, batch))
    for i, row in enumerate(rows):
        expected = smollm2_recorded[f"strided/{i}"]
        got = logits[i, : len(row), ::997]
        assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-2
        top = logits[i, len(row) - 1, smollm2_recorded[f"top_ids/{i}"]]
        np.testing.assert_allclose(top, smollm2_recorded[f"top_values/{i}"], rtol=1e-2)


def test_smollm2_greedy_tokens_equal_the_reference(smollm2, smollm2_recorded):
    _, batch = smollm2_batch(smollm2_recorded)
    got = models.generate(
        smollm2, smollm2.params, batch["input_ids"], batch["attention_mask"], max_new_tokens=32, stop_tokens=()
    )
    expected = np.stack([smollm2_recorded[f"greedy/{i}"] for i in range(5)])
    np.testing.assert_array_equal(got.tokens, expected)
