"""Records tiny BERT, RoBERTa, DistilBERT, ModernBERT and T5 checkpoints, for tests/models/test_encoders and test_t5.

python tests/golden/record_encoders.py
"""

import torch
import transformers
from record_tiny import padded, randomise, record

VOCABULARY = 64
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
HEADS = {"num_attention_heads": 4, "attn_implementation": "eager"}


def encoder(name: str, model, pad: int, gradients: tuple[str, ...], lengths=(11, 7, 1)) -> None:
    """Hidden states and masked-language logits of one padded batch."""
    ids, mask = padded(list(lengths), VOCABULARY, pad)
    outputs = randomise(model)(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    wanted = {f"hidden/{i}": hidden for i, hidden in enumerate(outputs.hidden_states)} | {"logits": outputs.logits}
    inputs = {"input_ids": ids, "attention_mask": mask}
    record(name, model, inputs, wanted, "logits", mask[..., None], gradients)


def encoders() -> None:
    """One checkpoint each with its masked-language head."""
    layer = "encoder.layer.0.attention.self.query.weight"
    bert = transformers.BertConfig(**SIZES, **HEADS, max_position_embeddings=24)
    encoder(
        "tiny_bert_lm", transformers.BertForMaskedLM(bert), 0,
        (f"bert.{layer}", "bert.embeddings.word_embeddings.weight", "cls.predictions.transform.dense.weight"),
    )  # fmt: skip
    roberta = transformers.RobertaConfig(
        **SIZES, **HEADS, max_position_embeddings=24, type_vocab_size=1, pad_token_id=1
    )
    encoder(
        "tiny_roberta", transformers.RobertaForMaskedLM(roberta), 1,
        (f"roberta.{layer}", "roberta.embeddings.position_embeddings.weight", "lm_head.dense.weight"),
    )  # fmt: skip
    distilbert = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=24,
        attn_implementation="eager",
    )  # fmt: skip
    encoder(
        "tiny_distilbert", transformers.DistilBertForMaskedLM(distilbert), 0,
        ("distilbert.transformer.layer.0.attention.q_lin.weight", "vocab_transform.weight"),
    )  # fmt: skip
    modern = transformers.ModernBertConfig(
        **{**SIZES, "num_hidden_layers": 3}, **HEADS, max_position_embeddings=64, local_attention=8,
        global_attn_every_n_layers=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    )  # fmt: skip
    encoder(
        "tiny_modernbert", transformers.ModernBertForMaskedLM(modern), 0,
        ("model.layers.1.attn.Wqkv.weight", "model.layers.0.mlp.Wi.weight", "model.embeddings.tok_embeddings.weight"),
        (19, 12, 1),
    )  # fmt: skip


def heads() -> None:
    """The classifiers of examples and tokens that transformers has, and a decoder's reward."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
    sizes |= {"num_attention_heads": 2, "pad_token_id": 1, "attn_implementation": "eager"}
    ids, mask = padded([8, 5], VOCABULARY, 1)
    gpt2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "pad_token_id": 1}
    local = {"local_attention": 8, "global_attn_every_n_layers": 2, "num_hidden_layers": 2, "classifier_bias": True}
    local |= {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    special = {
        "tiny_distilbert_classifier": {
            "vocab_size": VOCABULARY, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 1,
            "max_position_embeddings": 16,
        },
        "tiny_modernbert_classifier": sizes | local | {"classifier_pooling": "mean", "norm_bias": True},
        "tiny_modernbert_first": sizes | local | {"classifier_pooling": "cls"},
        "tiny_modernbert_tagger": sizes | local,
        "tiny_gpt2_classifier": gpt2,
        "tiny_gpt2_tagger": gpt2,
        "tiny_bert_regression": sizes | {"problem_type": "regression"},
    }  # fmt: skip
    for name, kind, labels, parameter in (
        ("tiny_bert_classifier", "BertForSequenceClassification", 3, "bert.pooler.dense.weight"),
        ("tiny_roberta_tagger", "RobertaForTokenClassification", 4, "classifier.weight"),
        ("tiny_llama_reward", "LlamaForSequenceClassification", 1, "score.weight"),
        ("tiny_bert_regression", "BertForSequenceClassification", 2, "classifier.bias"),
        ("tiny_roberta_classifier", "RobertaForSequenceClassification", 3, "classifier.dense.weight"),
        ("tiny_distilbert_classifier", "DistilBertForSequenceClassification", 3, "pre_classifier.weight"),
        ("tiny_modernbert_classifier", "ModernBertForSequenceClassification", 3, "head.norm.weight"),
        ("tiny_modernbert_first", "ModernBertForSequenceClassification", 3, "head.dense.weight"),
        ("tiny_modernbert_tagger", "ModernBertForTokenClassification", 3, "head.dense.weight"),
        ("tiny_qwen2_classifier", "Qwen2ForSequenceClassification", 3, "score.weight"),
        ("tiny_gpt2_classifier", "GPT2ForSequenceClassification", 3, "score.weight"),
        ("tiny_gpt2_tagger", "GPT2ForTokenClassification", 3, "classifier.weight"),
        ("tiny_qwen3_tagger", "Qwen3ForTokenClassification", 3, "score.weight"),
    ):
        model = getattr(transformers, kind)
        chosen = special.get(name, sizes)
        small = {} if "n_embd" in chosen else {"max_position_embeddings": 16}
        small = small if name not in ("tiny_bert_classifier", "tiny_roberta_tagger", "tiny_llama_reward") else {}
        small |= {"head_dim": 8, "num_key_value_heads": 1} if "qwen" in name else {}
        model = randomise(model(model.config_class(**chosen | small, num_labels=labels)))
        logits = model(input_ids=ids, attention_mask=mask).logits
        seen = mask[..., None] if logits.ndim == 3 else torch.ones(1)
        record(
            name, model, {"input_ids": ids, "attention_mask": mask}, {"logits": logits}, "logits", seen, (parameter,)
        )


def t5(name: str, **options) -> None:
    """Decoder hidden states, logits and greedy tokens."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0,
        attn_implementation="eager", **options,
    )  # fmt: skip
    model = randomise(transformers.T5ForConditionalGeneration(config))
    ids, mask = padded([17, 7, 1], VOCABULARY, 0)
    labels, _ = padded([13, 9, 4], VOCABULARY, 0, seed=4)
    start = torch.zeros_like(labels[:, :1])
    decoder_ids = torch.cat([start, labels[:, :-1]], dim=1)
    outputs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, output_hidden_states=True)
    wanted = {
        "encoder": outputs.encoder_last_hidden_state, "decoder/1": outputs.decoder_hidden_states[1],
        "logits": outputs.logits,
    }  # fmt: skip
    gradients = (
        "shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.1.layer.1.EncDecAttention.k.weight",
    )  # fmt: skip
    with torch.no_grad():
        tokens = start
        for _ in range(12):
            step = model(input_ids=ids, attention_mask=mask, decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat([tokens, step.argmax(-1, keepdim=True)], dim=1)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    record(name, model, inputs, wanted, "logits", torch.ones(1), gradients, greedy=tokens[:, 1:])


def main() -> None:
    """Records all of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoders()
    heads()
    t5("tiny_t5", feed_forward_proj="relu")
    t5("tiny_t5_gated", feed_forward_proj="gated-gelu", tie_word_embeddings=False)


if __name__ == "__main__":
    main()
