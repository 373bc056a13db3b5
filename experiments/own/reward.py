"""A chat model learns from its own answers to questions whose right answer is known: columns prompt and answer.

``ft-jax run reward --data.address questions.jsonl --model.address hf://org/model``: an answer is right where its last
number is the file's; ``--method.rl.grpo.reward.by exact`` compares texts.
"""

from ft_jax.assets import SMOLLM2
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.own_data import Questions, Verified
from ft_jax.training.own_data.questions import mean_reward, rewarded
from ft_jax.training.specs import Pretrained

experiment = Experiment(
    name="own/reward",
    model=Pretrained(SMOLLM2),
    data=Questions(),
    method=(
        Use("rl.grpo", reward=Verified("number"), samples=8, max_new_tokens=64),
        Use("transfer.lora", rank=16, alpha=32.0),
    ),
    optimizer=OptimizerSpec(learning_rate=1e-5, schedule="cosine", warmup=0.1, max_norm=1.0),
    budget=Budget(epochs=1, batch_size=8),
    predict=rewarded,
    metrics={"reward": mean_reward},
    evaluation=EvaluationSpec(metric="reward", mode="max"),
)
