"""Learning rates for a classifier of one's own texts, all tried in one program; the best one's model is kept.

``ft-jax run search --data.address reviews.csv`` trains every rate at once on one frozen base and names the winner.
``ft-jax sweep`` searches any field of an experiment.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Labelled
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/search",
    model=Pretrained(MINILM, classes="data", pooling="pooler"),
    data=Labelled(),
    method=(
        Use("tuning.population", numbers={"optimizer.learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}),
        Use("transfer.lora", rank=8, alpha=16.0),
    ),
    optimizer=OptimizerSpec(schedule="linear", warmup=0.1, weight_decay=0.01, max_norm=1.0),
    budget=Budget(epochs=5, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
