"""A classifier learns from one's own files in turn and keeps what the earlier ones taught.

``ft-jax run continual --data.addresses first.csv second.csv``: every file is a task, the classes of
all have one numbering, and after each task all of them are measured.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.specs import Pretrained, Texts

experiment = Experiment(
    name="own/continual",
    model=Pretrained(MINILM, classes="data", pooling="pooler"),
    data=Texts((), length=128),
    method=(Use("incremental.replay", capacity=200, size=16), Use("transfer.lora", rank=8, alpha=16.0)),
    optimizer=OptimizerSpec(learning_rate=1e-3, warmup=0.1, max_norm=1.0),
    budget=Budget(epochs=5, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
