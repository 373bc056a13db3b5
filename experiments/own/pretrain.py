"""A language model reads on in one's own texts: a column text.

``ft-jax run pretrain --data.address articles.jsonl --model.address hf://org/model``: long texts in pieces, short ones
together in rows that do not see each other, every weight learns.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Documents
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/pretrain",
    model=Pretrained(SMOLLM2),
    data=Documents(),
    method=(Use("transfer.full"),),
    optimizer=OptimizerSpec(learning_rate=2e-5, schedule="cosine", warmup=0.03, weight_decay=0.1, max_norm=1.0),
    budget=Budget(epochs=1, batch_size=8),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
)
