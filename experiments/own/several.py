"""A classifier of one's own examples of several modalities, any of which may be missing.

``ft-jax run several --data.address examples.jsonl``: rows with a path in image, a text in text, and a label; an empty
cell is missing. Then ``ft-jax predict runs/own/several --image one.png --text "what is said of it"``. With sounds:
``--model.modalities image text audio``, and paths of wav files in audio.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Together
from ft_jax.training.several import MODALITIES, Encoders

experiment = Experiment(
    name="own/several",
    model=Encoders(text=MINILM, fusion="gate", classes="data"),
    data=Together(),
    method=(
        Use("multimodal.modality_dropout", modalities=MODALITIES, rate=0.3),
        Use(
            "transfer.lora",
            rank=8,
            alpha=16.0,
            targets=("*/encoders/text/*attention/*/kernel", "*/encoders/text/*mlp/*/kernel"),
            also=("*/encoders/[ia]*/*", "*/projections/*", "*/fusion/*", "*/head/*"),
        ),
    ),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01, max_norm=1.0),
    budget=Budget(epochs=10, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)
