"""One space for one's own images and texts (or sounds): each finds the other.

``ft-jax run match --data.address captions.jsonl``: rows with a path in image and a text in text (or caption). Then
``ft-jax predict runs/own/match --image one.png --text "a cat" --text "a dog"``. MiniLM reads the texts through a LoRA,
a small vision transformer learns the images from nothing; ``--model.address hf://openai/clip-vit-base-patch32
--method "transfer.lora(rank=8)"`` fine-tunes a CLIP instead.
"""

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Together
from ft_jax.training.several import RECALLS, Encoders, compared, features

experiment = Experiment(
    name="own/match",
    model=Encoders(text=MINILM),
    data=Together(),
    method=(
        Use(
            "transfer.lora",
            rank=8,
            alpha=16.0,
            targets=("*/encoders/text/*attention/*/kernel", "*/encoders/text/*mlp/*/kernel"),
            also=("*/encoders/[ia]*/*", "*/projections/*", "*/fusion/*"),
        ),
    ),
    loss=compared,
    predict=features,
    metrics=RECALLS,
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1, weight_decay=0.01, max_norm=1.0),
    budget=Budget(epochs=10, batch_size=32),
    evaluation=EvaluationSpec(metric="image_to_text", mode="max"),
)
