"""Language models that learn from their own answers: sampled, scored and compared inside the step.

- `grpo`: group-relative policy optimisation and, by name, Dr. GRPO, DAPO, CISPO, GSPO, RLOO, REINFORCE and others;
- `ppo`: with a value for every token; `raft`: learns the best of several answers;
- `on_host`, `of_texts`, `exact_match`, `numerically_equal`, `matches_tokens`, `shortness`: rewards;
- `Answers`: what a reward sees.
"""

from ft_jax.rl.online.grpo import RECIPES, grpo
from ft_jax.rl.online.ppo import ppo
from ft_jax.rl.online.raft import raft
from ft_jax.rl.online.rewards import (
    Answers,
    exact_match,
    matches_tokens,
    numerically_equal,
    of_texts,
    on_host,
    shortness,
)

__all__ = [
    "RECIPES", "Answers", "exact_match", "grpo", "matches_tokens", "numerically_equal", "of_texts", "on_host",
    "ppo", "raft", "shortness",
]  # fmt: skip
