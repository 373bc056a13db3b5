"""A chat model learns from one's own preferences: columns prompt, chosen and rejected.

``ft-jax run dpo --data.address pairs.jsonl --model.address hf://org/model``.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Preferences
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/dpo",
    model=Pretrained(SMOLLM2),
    data=Preferences(),
    method=(Use("rl.dpo", beta=0.1), Use("transfer.lora", rank=16, alpha=32.0)),
    optimizer=OptimizerSpec(learning_rate=5e-5, schedule="cosine", warmup=0.1, max_norm=1.0),
    budget=Budget(epochs=1, batch_size=8),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
)
