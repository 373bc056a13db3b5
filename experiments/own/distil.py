"""A small model learns to write as a larger one does, on one's own texts.

``ft-jax run distil --data.address chat.jsonl --model.address SMALL --method.distillation.logits.params.address LARGE``:
both with one vocabulary.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Written
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/distil",
    model=Pretrained(SMOLLM2),
    data=Written(),
    method=(
        Use("distillation.logits", params=Pretrained(SMOLLM2), weight=1.0, temperature=2.0),
        Use("transfer.full"),
    ),
    optimizer=OptimizerSpec(learning_rate=5e-5, schedule="cosine", warmup=0.03, max_norm=1.0),
    budget=Budget(epochs=3, batch_size=8),
    evaluation=EvaluationSpec(metric="task", mode="min"),
)
