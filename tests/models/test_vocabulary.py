"""More tokens and unembeddings of their own: in models, heads, adapters and exports."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.tiny_checkpoints import GOLDEN
from safetensors.numpy import load_file, save_file

from ft_jax import models, transfer
from ft_jax.core import make_step, parameters

KEY = jax.random.key(0)
IDS = {"input_ids": np.arange(3, 14).reshape(1, -1)}


def adapted(model, method):
    """The model's parameters with the method's learning leaves moved."""
    state = make_step(lambda *_: None, optax.identity(), method).init(model.params, jax.random.key(1))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), state.params)
    return parameters(state.replace(params=moved), method)["model"]


@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_llama", "tiny_bert_lm"])
def test_new_tokens_begin_at_the_mean_and_leave_the_others_alone(name, tmp_path):
    model = models.load(GOLDEN / name, tokenizer=False)
    rows = model.config.vocabulary
    more = models.resized(model, rows + 3, KEY, multiple=8)
    count = more.config.vocabulary
    assert count % 8 == 0 and count >= rows + 3
    table = np.asarray(more.params["embeddings"]["tokens"])
    old = np.asarray(model.params["embeddings"]["tokens"])
    np.testing.assert_array_equal(table[:rows], old)
    # 1e-9 of the covariance is 3e-5 of the deviation.
    assert np.abs(table[rows:] - old.mean(0)).max() < 3e-4 * old.std() and np.ptp(table[rows:], axis=0).max() > 0
    exact = np.asarray(models.resized(model, rows + 1).params["embeddings"]["tokens"])
    np.testing.assert_allclose(exact[-1], old.mean(0), rtol=1e-5, atol=1e-7)
    before, after = (np.asarray(one.apply(one.params, IDS).logits) for one in (model, more))
    np.testing.assert_allclose(after[..., :rows], before, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after[..., rows:], before.mean(-1, keepdims=True).repeat(count - rows, -1), atol=2e-3)
    saved = models.save(more, more.params, tmp_path / "saved")
    assert json.loads((saved / "config.json").read_text())["vocab_size"] == count
    again = models.load(saved, tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, again.params, more.params)
    fewer = models.resized(more, rows)
    jax.tree.map(np.testing.assert_array_equal, fewer.params, model.params)


def test_a_head_of_classes_stays_when_tokens_are_added():
    model = models.with_classifier(models.tiny_decoder(KEY), 3, KEY, "last")
    more = models.resized(model, 40)
    np.testing.assert_array_equal(more.params["head"]["kernel"], model.params["head"]["kernel"])
    np.testing.assert_allclose(more.apply(more.params, IDS).logits, model.apply(model.params, IDS).logits, atol=1e-6)
    with pytest.raises(ValueError, match="resized to 0 tokens"):
        models.resized(model, 0)
    vit = models.vit(models.ViTConfig(image=(8, 8, 1), patch=4, width=16, layers=1, heads=2), None)
    with pytest.raises(ValueError, match="ViTConfig has no table of tokens to resize"):
        models.resized(vit, 9)


def test_the_table_of_a_resized_model_is_saved_with_its_adapter(tmp_path):
    model = models.resized(models.load(GOLDEN / "tiny_qwen2", tokenizer=False), 80, KEY)
    params = adapted(model, transfer.lora(rank=2))
    models.save_adapter(model, params, tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    # peft unties what it saves in full, so both modules are there.
    for name in ("model.embed_tokens", "lm_head"):
        np.testing.assert_array_equal(stored[f"base_model.model.{name}.weight"], model.params["embeddings"]["tokens"])
    base = models.resized(models.load(GOLDEN / "tiny_qwen2", tokenizer=False), 80)
    _, again = models.load_adapter(tmp_path / "adapter", base)
    got, wanted = (model.apply(each, IDS).logits for each in (again, params))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


ON_TABLES = {
    "adapter": lambda: transfer.lora(rank=2, alpha=3.0, targets=("*attention/query/kernel", "*embeddings/tokens")),
    "in full": lambda: transfer.lora(rank=2, targets=("*attention/query/kernel",), also=("*embeddings/tokens",)),
}


@pytest.mark.parametrize("kind", ON_TABLES)
def test_what_stands_on_a_tied_table_is_written_for_both_modules_and_read_as_one(kind, tmp_path):
    model = models.load(GOLDEN / "tiny_qwen2", tokenizer=False)
    params = adapted(model, ON_TABLES[kind]())
    models.save_adapter(model, params, tmp_path / "adapter")
    wanted = np.asarray(model.apply(params, IDS).logits)
    # Over two modules, as peft sees them, it is the same function.
    for base in (model, models.untied(model)):
        _, again = models.load_adapter(tmp_path / "adapter", base)
        np.testing.assert_allclose(base.apply(again, IDS).logits, wanted, rtol=1e-5, atol=2e-5)
    file = tmp_path / "adapter/adapter_model.safetensors"
    stored = load_file(file)
    name = next(key for key in stored if ".lm_head." in key)
    save_file(stored | {name: stored[name] + 1}, file)
    with pytest.raises(ValueError, match="other numbers for 'model.embed_tokens' .* load it for models.untied"):
        models.load_adapter(tmp_path / "adapter", model)
    models.load_adapter(tmp_path / "adapter", models.untied(model))
    save_file({key: x for key, x in stored.items() if ".lm_head." not in key}, file)
    with pytest.raises(ValueError, match="load it for models.untied"):
        models.load_adapter(tmp_path / "adapter", model)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config | {"ensure_weight_tying": True}))
    _, again = models.load_adapter(tmp_path / "adapter", model)
    np.testing.assert_allclose(model.apply(again, IDS).logits, wanted, rtol=1e-5, atol=2e-5)


def test_a_table_that_more_than_an_unembedding_shares_is_refused(tmp_path):
    for name, copy in (("tiny_bert_lm", "cls.predictions.decoder.weight"), ("tiny_t5", "encoder.embed_tokens.weight")):
        model = models.load(GOLDEN / name, tokenizer=False)
        with pytest.raises(ValueError, match=f"{copy}' is tied to it, which peft would untie"):
            models.save_adapter(model, adapted(model, ON_TABLES["in full"]()), tmp_path / "adapter")
    with pytest.raises(ValueError, match="has no unembedding that is tied"):
        models.untied(models.tiny_encoder(KEY))
