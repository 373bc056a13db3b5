"""Reinforcement learning: from preferences and rewards.

- `dpo`: preferences between two answers, without a reward model; `margins` evaluates it.
"""

from ft_jax.rl.dpo import dpo, margins

__all__ = ["dpo", "margins"]
