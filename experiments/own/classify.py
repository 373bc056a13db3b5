"""A classifier of one's own texts: columns text and label, classes by their names.

``ft-jax run classify --data.address reviews.csv``: then ``ft-jax predict runs/own/classify "A text"`` and
``ft-jax export``. The head reads BERT's pooler, as transformers' class of that name does; a model without one takes
``--model.pooling mean``, a decoder ``last``.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Labelled
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/classify",
    model=Pretrained(MINILM, classes="data", pooling="pooler"),
    data=Labelled(),
    method=(Use("transfer.lora", rank=8, alpha=16.0),),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01, max_norm=1.0),
    budget=Budget(epochs=5, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
