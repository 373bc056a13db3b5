"""A chat model learns from one's own conversations, or prompts with answers.

``ft-jax run sft --data.address chat.jsonl --model.address hf://org/model``: a jsonl with ``messages``, or with
``prompt`` and ``completion``. Then ``ft-jax generate runs/own/sft "A question"`` and ``ft-jax export``.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Written
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/sft",
    model=Pretrained(SMOLLM2),
    data=Written(),
    method=(Use("transfer.lora", rank=16, alpha=32.0),),
    optimizer=OptimizerSpec(learning_rate=2e-4, schedule="cosine", warmup=0.03, max_norm=1.0),
    budget=Budget(epochs=3, batch_size=8),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
)
