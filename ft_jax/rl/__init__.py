"""Reinforcement learning: from preferences and rewards.

- `dpo`: preferences between two answers, without a reward model, with the losses that vary it by name; `orpo`, `simpo`
  and `cpo` need no reference; `kto` takes single answers, good or bad; `margins` evaluates them, `with_references`
  computes their references once;
- `reward_model`, `process_reward`: models of rewards, `dft`: fine-tuning weighed as a policy gradient would;
- `grpo`: a language model learns from its own rewarded answers, with its variants by name, `ppo` by
  values of tokens, `raft` the best of several (`ft_jax.rl.online`);
- `agent_ppo`, `dqn`, `pqn`: agents in environments (`ft_jax.rl.agents`, `ft_jax.rl.environments`);
- `adjust`: numbers that move, and a bad turn undone, where evaluations fall short.
"""

from ft_jax.rl.adjust import adjust
from ft_jax.rl.agents import agent_ppo, dqn, pqn
from ft_jax.rl.dft import dft
from ft_jax.rl.dpo import dpo
from ft_jax.rl.kto import kto
from ft_jax.rl.online import grpo, ppo, raft
from ft_jax.rl.pairs import margins
from ft_jax.rl.reference_free import cpo, orpo, simpo
from ft_jax.rl.references import with_references
from ft_jax.rl.reward_models import process_reward, reward_model

__all__ = [
    "adjust", "agent_ppo", "cpo", "dft", "dpo", "dqn", "grpo", "kto", "margins", "orpo", "ppo", "pqn",
    "process_reward", "raft", "reward_model", "simpo", "with_references",
]  # fmt: skip
