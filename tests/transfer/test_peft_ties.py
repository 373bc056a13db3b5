"""Adapters of peft on a table of tokens that is used twice, and a few rows of it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.tiny_checkpoints import GOLDEN
from safetensors.numpy import load_file, save_file

from ft_jax import models, transfer
from ft_jax.core import compose, make_step, materialize, merge, parameters

FOLDER = GOLDEN / "peft_ties"
TIED = models.load(GOLDEN / "decoders/qwen3", tokenizer=False)
UNTIED = models.load(GOLDEN / "decoders/llama", tokenizer=False)
NAME = "transfer.trainable_tokens"


def batch_of(checkpoint):
    with np.load(GOLDEN / checkpoint / "outputs.npz") as arrays:
        return {name: jnp.asarray(arrays[f"right/{name}"]) for name in ("input_ids", "attention_mask")}


def compared(model, params, kind):
    batch = batch_of("decoders/qwen3")
    real = np.asarray(batch["attention_mask"], bool)
    with np.load(FOLDER / kind / "outputs.npz") as file:
        wanted = file["logits"]
    found = np.asarray(jax.jit(model.apply)(params, batch).logits)
    np.testing.assert_allclose(found[real], wanted[real], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["tied_lora", "tied_full", "tied_tokens", "tied_tokens_alone"])
def test_what_peft_ties_is_read_as_one_and_written_as_peft_reads_it(kind, tmp_path):
    _, params = models.load_adapter(FOLDER / kind, TIED)
    compared(TIED, params, kind)
    models.save_adapter(TIED, params, tmp_path / "saved")
    ours, theirs = (load_file(at / "adapter_model.safetensors") for at in (tmp_path / "saved", FOLDER / kind))
    theirs = {name: x for name, x in theirs.items() if not name.endswith("base_layer.weight")}
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_allclose(ours[name], x, rtol=1e-6, err_msg=name)
    _, again = models.load_adapter(tmp_path / "saved", TIED)
    compared(TIED, again, kind)


def test_tokens_that_differ_on_both_sides_of_a_tie_ask_for_an_untied_model():
    with pytest.raises(ValueError, match=r"other numbers for .*lm_head.*models\.untied\(model\)"):
        models.load_adapter(FOLDER / "tied_tokens_apart", TIED)
    apart = models.untied(TIED)
    _, params = models.load_adapter(FOLDER / "tied_tokens_apart", apart)
    compared(apart, params, "tied_tokens_apart")


def trained(model, method):
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(model.params, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), state.params)
    return parameters(state.replace(params=moved), compose(method))["model"]


def test_a_few_tokens_learn_and_the_others_stay():
    method = transfer.trainable_tokens((3, 7))
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(TIED.params, jax.random.key(0))
    assert [x.shape for x in jax.tree.leaves(state.params)] == [(2, 16)]
    params, before = trained(TIED, method), TIED.params["embeddings"]["tokens"]
    table = np.asarray(materialize(params["embeddings"]["tokens"]))
    changed = np.flatnonzero(np.any(table != np.asarray(before), axis=1))
    assert changed.tolist() == [3, 7]
    batch = batch_of("decoders/qwen3")
    outputs = [TIED.apply(x, batch).logits for x in (params, merge(params))]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def test_tokens_beside_a_lora_are_one_file_of_both(tmp_path):
    tokens = {"*embeddings/tokens": (3, 7), "*/head/kernel": (5,)}
    method = compose(transfer.lora(rank=2, targets="attention"), transfer.trainable_tokens(tokens))
    params, batch = trained(UNTIED, method), batch_of("decoders/llama")
    models.save_adapter(UNTIED, params, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["trainable_token_indices"] == {"model.embed_tokens": [3, 7], "lm_head": [5]}
    loaded, again = models.load_adapter(tmp_path / "saved", UNTIED)
    np.testing.assert_allclose(
        UNTIED.apply(again, batch).logits, UNTIED.apply(params, batch).logits, rtol=1e-5, atol=1e-5
    )
    state = make_step(lambda *_: None, optax.identity(), loaded).init(UNTIED.params, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(state.params)) == sum(
        x.size
        for x in jax.tree.leaves(
            make_step(lambda *_: None, optax.identity(), method).init(UNTIED.params, jax.random.key(0)).params
        )
    )
    only = tmp_path / "only"
    models.save_adapter(UNTIED, trained(UNTIED, transfer.trainable_tokens((1, 2))), only, owner=NAME)
    assert json.loads((only / "adapter_config.json").read_text())["token_indices"] == [1, 2]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), r"has the tokens \[\] of"),
        ((3, 3), r"has the tokens \[3, 3\] of .*each once"),
        ((-1,), r"has the tokens \[-1\]"),
        ((48,), r"has the token 48, but model/embeddings/tokens has 48 tokens; give lower ones, or resize"),
    ],
)
def test_tokens_that_are_none_are_refused(tokens, words):
    with pytest.raises(ValueError, match=words):
        trained(TIED, transfer.trainable_tokens(tokens))


def test_a_bias_of_its_own_is_refused_where_it_has_no_place():
    biased = transfer.lora(rank=2, bias=True, targets=("*attention/query/kernel", "*embeddings/tokens"))
    with pytest.raises(ValueError, match="has bias=True and model/embeddings/tokens is a table"):
        trained(TIED, biased)
    bare = models.tiny_decoder(jax.random.key(0))
    params = trained(bare, transfer.lora(rank=2, bias=True, targets="attention"))
    with pytest.raises(ValueError, match="adds a bias to a projection that has none, so it can't be merged"):
        merge(params)


MIXTRAL = models.load(GOLDEN / "decoders/mixtral", tokenizer=False)


def test_a_mixtures_router_has_the_name_that_transformers_has_in_memory_and_the_files(tmp_path):
    params = trained(MIXTRAL, transfer.lora(rank=2, targets="*/router/kernel"))
    models.save_adapter(MIXTRAL, params, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.mlp.gate.lora_A.weight" in stored
    # transformers before 5 has the files' names in memory.
    older = {name.replace(".mlp.", ".block_sparse_moe."): x for name, x in stored.items()}
    save_file(older, tmp_path / "saved" / "adapter_model.safetensors")
    _, again = models.load_adapter(tmp_path / "saved", MIXTRAL)
    kernels = [x["layers"]["0"]["mlp"]["router"]["kernel"].materialize() for x in (params, again)]
    np.testing.assert_allclose(*kernels, rtol=1e-6)


@pytest.mark.parametrize("build", [transfer.hra, transfer.fourierft, transfer.oft, transfer.loha, transfer.adalora])
def test_a_mixtures_router_is_refused_for_the_kinds_that_peft_has_not_got_for_it(build, tmp_path):
    options = {transfer.hra: {"rank": 2}, transfer.fourierft: {"frequencies": 3}, transfer.oft: {"block": 4}}
    more = options.get(build, {"rank": 2, "steps": 4, "target": 1} if build is transfer.adalora else {"rank": 2})
    params = trained(MIXTRAL, build(targets="*/router/kernel", **more))
    with pytest.raises(ValueError, match=r"layers/0/mlp/router/kernel is a mixture's router, which is no linear layer"):
        models.save_adapter(MIXTRAL, params, tmp_path / "saved")


def test_tokens_beside_a_lora_are_refused_where_peft_would_untie_them(tmp_path):
    model = models.load(GOLDEN / "tiny_bert_lm", tokenizer=False)
    method = compose(transfer.lora(rank=2, targets="attention"), transfer.trainable_tokens((3, 4)))
    program = make_step(None, optax.identity(), method)
    params = program.parameters(program.init(model.params, jax.random.key(0)))["model"]
    with pytest.raises(ValueError, match="embeddings/tokens learns and 'cls.predictions.decoder.weight' is tied to it"):
        models.save_adapter(model, params, tmp_path / "saved")
