"""Records trl's DPO loss and gradients on a tiny model: ``python record_trl.py OUT.npz`` (needs torch and trl).

The model is transformers' Llama without layers: an embedding table, a root-mean-square norm and a head.
"""

import sys
import tempfile

import numpy as np
import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, WIDTH, PAIRS, TIME, BETA, SFT = 19, 6, 4, 9, 0.3, 0.5


def language_model(seed: int) -> LlamaForCausalLM:
    """Random weights of a size at which the loss is far from linear."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


def trainer(policy, reference, folder: str, losses: list[str], weights: list[float]) -> trl.DPOTrainer:
    """trl's own, on the CPU and without training anything."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", bos_token="w1", eos_token="w2")
    data = Dataset.from_list([{"prompt": "w3 w4", "chosen": " w5", "rejected": " w6"}])
    arguments = trl.DPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        report_to="none",
        beta=BETA,
        loss_type=losses,
        loss_weights=weights,
        gradient_checkpointing=False,
    )
    return trl.DPOTrainer(policy, reference, args=arguments, train_dataset=data, processing_class=fast)


def main() -> None:
    """Writes parameters, batch, losses and gradients."""
    generator = np.random.default_rng(0)
    ids = generator.integers(1, VOCABULARY, (2 * PAIRS, TIME))
    prompts = np.tile(generator.integers(1, 4, PAIRS), 2)
    ids[PAIRS:, :3] = ids[:PAIRS, :3]
    lengths = generator.integers(5, TIME + 1, 2 * PAIRS)
    place = np.arange(TIME)
    attention = place < lengths[:, None]
    completion = attention & (place >= prompts[:, None])
    batch = {"input_ids": ids * attention, "attention_mask": attention, "completion_mask": completion}
    inputs = {name: torch.tensor(np.asarray(value, np.int64)) for name, value in batch.items()}
    record = dict(batch)
    for label, losses, weights in (("dpo", ["sigmoid"], [1.0]), ("dpo_sft", ["sigmoid", "sft"], [1.0, SFT])):
        policy, reference = language_model(1), language_model(2)
        for side, model in (("policy", policy), ("reference", reference)):
            for name, parameter in model.named_parameters():
                record[f"{side}/{name}"] = parameter.detach().numpy().copy()
        with tempfile.TemporaryDirectory() as folder:
            own = trainer(policy, reference, folder, losses, weights)
            own.model.train()
            loss = own.compute_loss(own.model, dict(inputs))
            loss.backward()
            record[f"{label}/loss"] = loss.detach().numpy()
            for name, parameter in own.model.named_parameters():
                record[f"{label}/gradient/{name}"] = parameter.grad.numpy()
            for name in ("rewards/chosen", "rewards/rejected"):
                record[f"{label}/{name}"] = np.float32(own._metrics["train"][name][0])
    np.savez(sys.argv[1], beta=BETA, sft=SFT, trl=trl.__version__, **record)


if __name__ == "__main__":
    main()
