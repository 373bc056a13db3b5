"""Agents in environments: they act inside the step and learn from what came of it.

- `agent_ppo`: a policy with values, kept near what acted;
- `dqn`: values of actions from a replay buffer, `pqn`: from many copies at once;
- `returns`, `episode_return`, `succeeded`: evaluation on held-out episodes.
"""

from ft_jax.rl.agents.dqn import dqn
from ft_jax.rl.agents.policy import Policy, episode_return, returns, succeeded
from ft_jax.rl.agents.ppo import agent_ppo
from ft_jax.rl.agents.pqn import lambda_returns, pqn

__all__ = ["Policy", "agent_ppo", "dqn", "episode_return", "lambda_returns", "pqn", "returns", "succeeded"]
