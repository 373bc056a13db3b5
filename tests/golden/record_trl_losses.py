"""Records trl's losses and their gradients: ``python record_trl_losses.py OUT.json`` (needs torch and trl).

The model is a table of logits, one row a sequence: losses are then functions of it and so are their gradients. The
four sequences, two chosen and two rejected or two groups of two, have completions of unlike length.
"""

import json
import sys
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.sft_trainer import SFTTrainer

ROWS, TIME, VOCABULARY, PROMPT, BETA, SMOOTHING = 4, 8, 5, 2, 0.3, 0.1
COMPLETIONS = (6, 2, 3, 4)
PAIRS = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


class Accelerator:
    """One process: nothing to gather."""

    num_processes = 1
    sync_gradients = True
    device = torch.device("cpu")

    def gather(self, x):
        return x

    def gather_for_metrics(self, x):
        return x

    def pad_across_processes(self, x, **options):
        return x

    def reduce(self, x, reduction="sum"):
        return x


class Trainer(SimpleNamespace):
    """What a trainer's loss reads of itself."""

    def __init__(self, **fields):
        shared = {"accelerator": Accelerator(), "aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1}
        super().__init__(**shared, _metrics=defaultdict(lambda: defaultdict(list)), **fields)
        self.model = SimpleNamespace(training=True)


def drawn(generator, *shape):
    return torch.tensor(generator.normal(size=shape) * 1.5, dtype=torch.float64)


def chosen_tokens(logits, ids):
    return torch.gather(torch.log_softmax(logits[:, :-1], -1), 2, ids[:, 1:, None])[..., 0]


def table_model(logits):
    """trl's fused head over a table of logits: log-probabilities of the labels, 0 where they are ignored."""

    def model(input_ids=None, labels=None, **ignored):
        if labels is not None:
            mask = labels[:, 1:] >= 0
            log_probabilities = chosen_tokens(logits, input_ids) * mask
            every = torch.log_softmax(logits[:, :-1], -1)
            found = SimpleNamespace(
                log_probs=log_probabilities,
                entropy=-(every.exp() * every).sum(-1),
                mean_logits=logits[:, :-1].mean(-1),
                label_mask=mask,
                is_top1=(logits[:, :-1].argmax(-1) == input_ids[:, 1:]) & mask,
            )
        else:
            found = SimpleNamespace(logits=logits)
        return found

    model.training = True
    return model


def differentiated(loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": float(loss), "gradient": np.round(gradient.numpy(), 9).tolist()}


def preferences(logits, reference, batch):
    found = {}
    for kind in PAIRS:
        own = Trainer(
            ld_alpha=None, precompute_ref_logps=False, f_divergence_type="reverse_kl", loss_types=[kind],
            loss_weights=[1.0], beta=BETA, label_smoothing=SMOOTHING, use_weighting=False,
            args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
            ref_model=table_model(reference),
        )  # fmt: skip
        model = table_model(logits)
        own.model = torch.nn.Module()
        own.model.is_gradient_checkpointing = False
        loss = DPOTrainer._compute_loss(own, model, dict(batch), False)
        found[kind] = differentiated(loss, logits)
    return found


def one_sided(logits, reference, batch, mismatched, mismatched_reference):
    """KTO: rows 0 and 2 are desirable."""
    own = Trainer(
        calculate_KL=True, precompute_ref_logps=False, loss_type="kto", beta=BETA, desirable_weight=1.0,
        undesirable_weight=0.7, args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=table_model(reference),
    )  # fmt: skip
    own.model = torch.nn.Module()
    own.model.is_gradient_checkpointing = False
    divergences = {True: mismatched, False: mismatched_reference}
    own._compute_kl_logps = lambda model, _: divergences[model is policy]
    policy = table_model(logits)
    labels = torch.tensor([True, False, True, False])
    found = {"desirable": labels.tolist(), "kl": float((mismatched - mismatched_reference).mean())}
    return found | differentiated(KTOTrainer._compute_loss(own, policy, {**batch, "label": labels}, False), logits)


def reference_free(logits, batch):
    """ORPO, CPO and SimPO; the whole loss, and ORPO's on a prompt of nothing, as trl's nll counts prompts."""
    found = {}
    ids, attention = batch["input_ids"], batch["attention_mask"]
    everything = torch.where(attention.bool(), ids, -100)
    completions = ids.masked_fill(batch["completion_mask"] == 0, -100)
    half = ROWS // 2
    for name, labels in (("orpo", completions), ("orpo_without_prompt", everything)):
        joined = {
            "concatenated_input_ids": ids, "concatenated_attention_mask": attention, "concatenated_labels": labels,
        }  # fmt: skip
        own = Trainer(
            beta=BETA, is_encoder_decoder=False, padding_value=0, concatenated_inputs=lambda *a, j=joined, **k: j,
            get_batch_logps=ORPOTrainer.get_batch_logps,
        )  # fmt: skip
        call = lambda *a, **k: SimpleNamespace(logits=logits)  # noqa: E731
        chosen, rejected, _, _, nll = ORPOTrainer.concatenated_forward(own, call, {"chosen_labels": labels[:half]})
        losses = ORPOTrainer.odds_ratio_loss(own, chosen, rejected)[0]
        with_nll = nll if name == "orpo_without_prompt" else 0.0
        found[name] = differentiated(with_nll - losses.mean(), logits)
    for name, kind, alpha in (("cpo", "sigmoid", 1.0), ("simpo", "simpo", 0.0)):
        joined = {
            "concatenated_input_ids": ids, "concatenated_attention_mask": attention,
            "concatenated_labels": completions,
        }  # fmt: skip
        own = Trainer(
            beta=BETA, is_encoder_decoder=False, pad_token_id=0, concatenated_inputs=lambda *a, j=joined, **k: j,
            get_batch_logps=CPOTrainer.get_batch_logps, loss_type=kind, cpo_alpha=alpha, alpha=0.0,
            simpo_gamma=0.5, label_smoothing=0.0,
        )  # fmt: skip
        call = lambda *a, **k: SimpleNamespace(logits=logits)  # noqa: E731
        forward = CPOTrainer.concatenated_forward(own, call, {"chosen_labels": completions[:half]})
        losses = CPOTrainer.cpo_loss(own, forward[0], forward[1])[0]
        found[name] = differentiated(losses.mean() + alpha * forward[4], logits)
    return found


def rewards(generator):
    scores = drawn(generator, ROWS, 1).requires_grad_()
    margin = torch.tensor([0.5, 0.0], dtype=torch.float64)
    own = Trainer(args=SimpleNamespace(center_rewards_coefficient=0.2))
    call = lambda **k: SimpleNamespace(logits=scores)  # noqa: E731
    inputs = {"attention_mask": torch.ones(ROWS, TIME), "margin": margin}
    loss = RewardTrainer.compute_loss(own, call, inputs)
    return {"scores": scores[:, 0].tolist(), "margin": margin.tolist(), **differentiated(loss, scores)}


def policies(logits, old, reference, sampler, batch):
    """GRPO and its relatives; rows 0, 1 and 2, 3 are groups."""
    found = {}
    ids, mask = batch["input_ids"], batch["completion_mask"].double()[:, PROMPT:]
    advantages = torch.tensor([0.9, -1.1, 1.3, -0.4], dtype=torch.float64)
    old_tokens, reference_tokens, sampler_tokens = (
        chosen_tokens(one, ids)[:, PROMPT - 1 :] for one in (old, reference, sampler)
    )

    def scored(*arguments, **options):
        every = torch.log_softmax(logits[:, PROMPT - 1 : -1], -1)
        return chosen_tokens(logits, ids)[:, PROMPT - 1 :], -(every.exp() * every).sum(-1).detach(), None

    def grpo(kind, level="token", beta=0.0, quantile=1.0, sampling=None, high=0.28):
        own = Trainer(
            top_entropy_quantile=quantile, off_policy_mask_threshold=None, importance_sampling_level=level, beta=beta,
            args=SimpleNamespace(
                use_bias_correction_kl=False, delta=None, steps_per_generation=1,
                sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
            ),
            epsilon_low=0.2, epsilon_high=high, use_vllm=sampling is not None, loss_type=kind,
            vllm_importance_sampling_correction=True, max_completion_length=TIME - PROMPT,
            current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
            _get_per_token_logps_and_entropies=scored,
        )  # fmt: skip
        own.get_high_entropy_mask = lambda *a: GRPOTrainer.get_high_entropy_mask(own, *a)
        inputs = {
            "prompt_ids": ids[:, :PROMPT], "prompt_mask": torch.ones(ROWS, PROMPT), "completion_ids": ids[:, PROMPT:],
            "completion_mask": mask, "advantages": advantages, "old_per_token_logps": old_tokens,
            "ref_per_token_logps": reference_tokens, "num_items_in_batch": mask.sum(),
        }  # fmt: skip
        if sampling is not None:
            inputs["importance_sampling_ratio"] = torch.exp((old_tokens - sampler_tokens) * mask).clamp(max=sampling)
        return differentiated(GRPOTrainer._compute_loss(own, None, inputs), logits)

    found["grpo"] = grpo("grpo")
    found["grpo_kl"] = grpo("grpo", beta=0.1)
    found["bnpo"] = grpo("bnpo")
    found["dr_grpo"] = grpo("dr_grpo")
    found["dapo"] = grpo("dapo")
    found["cispo"] = grpo("cispo", high=1.5)
    found["gspo"] = grpo("grpo", level="sequence")
    found["sapo"] = grpo("sapo")
    found["entropy_mask"] = grpo("dapo", quantile=0.3)
    found["truncated_importance_sampling"] = grpo("dapo", sampling=1.5)
    own = Trainer(epsilon_low=0.2, epsilon_high=0.2, _get_per_token_logps_and_entropies=scored)
    inputs = {
        "prompt_ids": ids[:, :PROMPT], "prompt_mask": torch.ones(ROWS, PROMPT), "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask, "advantages": advantages, "old_logps": (old_tokens * mask).sum(1),
    }  # fmt: skip
    found["rloo"] = differentiated(RLOOTrainer._compute_loss(own, None, inputs), logits)
    return {"advantages": advantages.tolist(), "losses": found}


def rescaled(logits, batch):
    """DFT on all four completions."""
    arguments = SimpleNamespace(loss_type="dft", average_tokens_across_devices=False)
    own = Trainer(args=arguments, label_smoother=None, compute_loss_func=None)
    own.accelerator.parallelism_config = None
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return differentiated(SFTTrainer.compute_loss(own, table_model(logits), inputs), logits)


def main() -> None:
    """Writes inputs, losses and gradients."""
    generator = np.random.default_rng(0)
    logits, old, reference, sampler = (drawn(generator, ROWS, TIME, VOCABULARY) for _ in range(4))
    old, sampler = logits + 0.3 * old, logits + 0.3 * old + 0.2 * sampler
    logits.requires_grad_()
    ids = torch.tensor(generator.integers(0, VOCABULARY, (ROWS, TIME)))
    place = torch.arange(TIME)
    attention = place < PROMPT + torch.tensor(COMPLETIONS)[:, None]
    completion = attention & (place >= PROMPT)
    batch = {"input_ids": ids, "attention_mask": attention.long(), "completion_mask": completion.long()}
    mismatched, mismatched_reference = drawn(generator, ROWS), drawn(generator, ROWS)
    if mismatched.mean() < mismatched_reference.mean():
        mismatched, mismatched_reference = mismatched_reference, mismatched
    record = {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "beta": BETA,
        "smoothing": SMOOTHING,
        "prompt": PROMPT,
        "logits": logits.tolist(),
        "old": old.tolist(),
        "reference": reference.tolist(),
        "sampler": sampler.tolist(),
        "input_ids": ids.tolist(),
        "completion_mask": completion.int().tolist(),
        "preferences": preferences(logits, reference, batch),
        "kto": one_sided(logits, reference, batch, mismatched, mismatched_reference),
        "reference_free": reference_free(logits, batch),
        "reward_model": rewards(generator),
        "policy": policies(logits, old.detach(), reference, sampler.detach(), batch),
        "dft": rescaled(logits, batch),
    }

    def rounded(value):
        if isinstance(value, float):
            return float(f"{value:.9g}")
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return {name: rounded(one) for name, one in value.items()} if isinstance(value, dict) else value

    with open(sys.argv[1], "w") as file:
        json.dump(rounded(record), file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
