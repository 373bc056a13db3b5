"""An embedding model for one's own texts: pairs that belong together, or pairs with a score.

``ft-jax run embed --data.address pairs.csv``: columns anchor and positive, or sentence1, sentence2 and score. Then
``ft-jax export runs/own/embed --merged DIR`` writes a sentence-transformers folder.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Pairs
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/embed",
    model=Pretrained(MINILM, head="embedding"),
    data=Pairs(),
    method=(Use("transfer.lora", rank=8, alpha=16.0),),
    optimizer=OptimizerSpec(learning_rate=2e-4, schedule="linear", warmup=0.1, max_norm=1.0),
    budget=Budget(epochs=3, batch_size=32),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
)
