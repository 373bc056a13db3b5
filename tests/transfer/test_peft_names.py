"""Adapters of peft on every kind of module name: fused, turned, under a head, called otherwise in memory."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.tiny_checkpoints import GOLDEN
from safetensors.numpy import load_file, save_file

from ft_jax import attention, models, transfer
from ft_jax.core import compose, make_step, parameters

FOLDER = GOLDEN / "peft_names"
CHECKPOINTS = {
    "gpt2_lora": "decoders/gpt2",
    "gpt2_ia3": "decoders/gpt2",
    "phi3_lora": "decoders/phi3",
    "phi3_dora": "decoders/phi3",
    "phi3_ia3": "decoders/phi3",
    "modernbert_lora": "tiny_modernbert_classifier",
    "roberta_lora": "tiny_roberta_classifier",
    "bert_lora": "tiny_bert_classifier",
    "vit_lora": "tiny_vit",
    "dinov2_lora": "tiny_dinov2_swiglu",
    "whisper_lora": "tiny_whisper",
    "mistral_prefix": "decoders/mistral",
    "mistral_prompt": "decoders/mistral",
    "gemma3_prompt": "decoders/gemma3",
    "mixtral_experts": "decoders/mixtral",
    "qwen3_moe_experts": "decoders/qwen3_moe",
    "qwen3_tagger_prompt": "tiny_qwen3_tagger",
    "roberta_tagger_prompt": "tiny_roberta_tagger",
    "t5_prompt": "tiny_t5",
    "bert_prefix": "tiny_bert_classifier",
    "llama_reward_prefix": "tiny_llama_reward",
}
"""The checkpoint that each recorded adapter stands on."""


def inputs_of(checkpoint):
    """The batch that the recorded outputs are of."""
    with np.load(GOLDEN / checkpoint / "outputs.npz") as arrays:
        start = "right/" if "right/input_ids" in arrays else "input/"
        fields = ("input_ids", "attention_mask", "pixel_values", "input_features", "decoder_input_ids", "labels")
        batch = {x: jnp.asarray(arrays[start + x]) for x in fields if start + x in arrays}
    if "pixel_values" in batch:
        batch["images"] = batch.pop("pixel_values").transpose(0, 2, 3, 1)
    return batch


def load(checkpoint):
    model = models.load(GOLDEN / checkpoint, tokenizer=False)
    images = hasattr(model.config, "tokens") and model.config.classes is None
    return model.configure(tokens=True) if images else model


def outputs_of(model, params, batch):
    outputs = jax.jit(model.apply)(params, batch)
    return np.asarray(outputs.hidden if outputs.unembedding is None else outputs.logits)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_adapter_of_peft_is_read_and_saved_as_peft_saved_it(name, tmp_path):
    model, batch = load(CHECKPOINTS[name]), inputs_of(CHECKPOINTS[name])
    _, params = models.load_adapter(FOLDER / name, model)
    with np.load(FOLDER / name / "outputs.npz") as arrays:
        wanted = arrays["outputs"]
    got, mask = outputs_of(model, params, batch), batch.get("attention_mask")
    real = np.asarray(mask) > 0 if mask is not None and wanted.shape[:2] == mask.shape else ...
    np.testing.assert_allclose(got[real], wanted[real], rtol=2e-5, atol=2e-5 * np.abs(wanted).max())
    assert np.abs(outputs_of(model, model.params, batch)[real] - wanted[real]).max() > 1e-2
    models.save_adapter(model, params, tmp_path / "saved")
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "saved", FOLDER / name))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6, atol=1e-7, err_msg=key)
    ours, theirs = (json.loads((f / "adapter_config.json").read_text()) for f in (tmp_path / "saved", FOLDER / name))
    assert bool(ours.get("fan_in_fan_out")) == bool(theirs.get("fan_in_fan_out"))
    assert ours["base_model_name_or_path"].endswith(CHECKPOINTS[name])
    for field in ("r", "num_virtual_tokens", "token_dim", *(("task_type",) if "num_virtual_tokens" in theirs else ())):
        assert ours.get(field) == theirs.get(field)


def test_virtual_tokens_are_saved_where_peft_adds_them_or_refused(tmp_path):
    def prompted(name, method):
        model = models.load(GOLDEN / name, tokenizer=False)
        state = make_step(lambda *_: None, optax.identity(), method).init(model.params, jax.random.key(1))
        return model, parameters(state, method)["model"]

    # Without its task peft adds no virtual tokens, and says nothing.
    for method in (attention.prefix_tuning(2), attention.p_tuning_v2(2), attention.prefix_tuning(2, projection=4)):
        folder = models.save_adapter(*prompted("tiny_bert_classifier", method), tmp_path / "saved", overwrite=True)
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
        names = {"prompt_embeddings", "base_model.classifier.weight", "base_model.classifier.bias"}
        assert load_file(folder / "adapter_model.safetensors").keys() == names
    for name in ("tiny_clip", "tiny_vit", "tiny_llava"):
        with pytest.raises(ValueError, match="peft adds the virtual tokens of PREFIX_TUNING in its classes for a task"):
            models.save_adapter(*prompted(name, attention.prefix_tuning(2)), tmp_path / "a")
    for name, read in (("tiny_bert_classifier", "first"), ("tiny_modernbert_classifier", "mean")):
        model, params = prompted(name, attention.prompt_tuning(2))
        with pytest.raises(ValueError, match=f"peft's classifier reads the(ir)? {read}"):
            models.save_adapter(model, params, tmp_path / "a")
    copied = tmp_path / "theirs"
    shutil.copytree(FOLDER / "roberta_tagger_prompt", copied)
    told = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**told, "task_type": "SEQ_CLS"}))
    with pytest.raises(ValueError, match="peft's classifier reads the first of them and this library's the text alone"):
        models.load_adapter(copied, load("tiny_roberta_classifier"))
    (copied / "adapter_config.json").write_text(json.dumps({**told, "num_transformer_submodules": 2}))
    stored = load_file(copied / "adapter_model.safetensors")
    doubled = {"prompt_embeddings": np.tile(stored["prompt_embeddings"], (2, 1))}
    save_file(doubled, copied / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="half of the adapter's 6 virtual tokens stand before the decoder's answer"):
        models.load_adapter(copied, load("tiny_t5"))


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [("decoders/gpt2", "some"), ("decoders/gpt2", "ia3"), ("decoders/phi3", "dora"), ("tiny_modernbert", "lora")],
)
def test_parts_of_a_fused_module_that_learnt_apart_are_saved_as_one_adapter_of_it(checkpoint, kind, tmp_path):
    model = models.load(GOLDEN / checkpoint, tokenizer=False)
    scaled = {"outputs": ("*attention/key/kernel",), "inputs": ("*mlp/down/kernel",)}
    method = {
        "lora": lambda: transfer.lora(rank=2, alpha=3.0, alphas={"*key*": 5.0}, ranks={"*value*": 3}),
        "dora": lambda: transfer.dora(rank=2, alpha=3.0),
        "ia3": lambda: attention.ia3(scaled),
        "some": lambda: transfer.lora(rank=2, targets=("*attention/query/kernel", "*attention/value/kernel")),
    }[kind]()
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(model.params, jax.random.key(1))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), state.params)
    params = parameters(state.replace(params=moved), method)["model"]
    models.save_adapter(model, params, tmp_path / "saved")
    _, again = models.load_adapter(tmp_path / "saved", model)
    batch = {"input_ids": np.arange(3, 14).reshape(1, -1)}
    got, wanted = outputs_of(model, again, batch), outputs_of(model, params, batch)
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max())


def test_what_has_no_adapter_of_a_part_or_of_a_turned_kernel_is_refused(tmp_path):
    def trained(model, method):
        state = make_step(lambda *_: None, optax.identity(), method).init(model.params, jax.random.key(1))
        return parameters(state, method)["model"]

    phi, gpt2 = (models.load(GOLDEN / "decoders" / name, tokenizer=False) for name in ("phi3", "gpt2"))
    with pytest.raises(ValueError, match="a part of 'model.layers.0.*, and peft's LOHA has no adapter of a part"):
        models.save_adapter(phi, trained(phi, transfer.loha(rank=2)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"is stored as \[inputs, outputs\] .* peft's LOHA is not for such modules"):
        models.save_adapter(gpt2, trained(gpt2, transfer.loha(rank=2)), tmp_path / "a")
    whisper, clip = (models.load(GOLDEN / name, tokenizer=False) for name in ("tiny_whisper", "tiny_clip"))
    both = compose(transfer.lora(rank=2, targets="attention"), transfer.trainable_tokens((3, 4)))
    with pytest.raises(ValueError, match="text/embeddings/tokens is no projection of its own in the published"):
        models.save_adapter(clip, trained(clip, both), tmp_path / "a")
    with pytest.raises(ValueError, match="stem/first/kernel is a convolution"):
        models.save_adapter(whisper, trained(whisper, transfer.oft(block=2, targets="*/first/kernel")), tmp_path / "a")
