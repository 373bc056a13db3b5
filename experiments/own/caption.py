"""A model that writes to one's own images: captions, or answers to questions about them.

``ft-jax run caption --data.address captions.jsonl``: rows with a path in image and a text in caption. Then ``ft-jax
generate runs/own/caption --image one.png``. A chat model reads the tokens of a small vision transformer that learns
from nothing. A LLaVA instead: ``--model.address hf://llava-hf/llava-1.5-7b-hf --method "transfer.lora(rank=8)"
--data.prompt "USER: <image> Describe it. ASSISTANT:"``.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Captions
from ft_jax.training.several import Writer

experiment = Experiment(
    name="own/caption",
    model=Writer(language=SMOLLM2),
    data=Captions(),
    method=(
        Use(
            "transfer.lora",
            rank=8,
            alpha=16.0,
            targets=("*/language/*attention/*/kernel", "*/language/*mlp/*/kernel"),
            also=("*/vision/*", "*/projector/*"),
        ),
    ),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1, max_norm=1.0),
    budget=Budget(epochs=5, batch_size=8),
    evaluation=EvaluationSpec(metric="loss", mode="min"),
)
