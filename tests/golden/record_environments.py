"""Records episodes of Gymnasium and MinAtar: ``python record_environments.py OUT.json`` (needs both).

Every episode has its first state and its actions, so that another implementation can be led the same way.
"""

import json
import sys

import gymnasium
import numpy as np
from minatar.environments import breakout


def classic(name: str, steps: int, episodes: int):
    """States, rewards and ends of random episodes."""
    found = []
    game = gymnasium.make(name).unwrapped
    for seed in range(episodes):
        game.reset(seed=seed)
        generator = np.random.default_rng(seed)
        start = np.asarray(game.state, np.float64)
        actions, states, rewards, ends = [], [], [], []
        for _ in range(steps):
            action = int(generator.integers(game.action_space.n))
            _, reward, end, _, _ = game.step(action)
            actions.append(action)
            states.append([float(f"{x:.8g}") for x in game.state])
            rewards.append(float(reward))
            ends.append(bool(end))
            if end:
                break
        found.append({"start": start.tolist(), "actions": actions, "states": states, "rewards": rewards, "ends": ends})
    return found


def bricks(steps: int, episodes: int):
    """MinAtar's Breakout, led by a paddle that mostly follows the ball."""
    found = []
    game = breakout.Env()
    for seed in range(episodes):
        game.random = np.random.RandomState(seed)
        game.reset()
        generator = np.random.default_rng(seed)
        actions, places, rewards, ends = [], [], [], []
        start = [int(game.ball_y), int(game.ball_x)]
        for _ in range(steps):
            ahead = game.ball_x + (1 if game.ball_dir in (1, 2) else -1)
            ahead = min(max(ahead, 0), 9)
            follow = 3 if ahead > game.pos else 1 if ahead < game.pos else 0
            action = int(generator.choice([0, 1, 3])) if generator.random() < 0.02 else follow
            reward, end = game.act(action)
            actions.append({0: 0, 1: 1, 3: 2}[action])
            places.append([int(game.ball_y), int(game.ball_x), int(game.pos), int(np.sum(game.brick_map))])
            rewards.append(float(reward))
            ends.append(bool(end))
            if end:
                break
        found.append({"start": start, "actions": actions, "places": places, "rewards": rewards, "ends": ends})
    return found


def main() -> None:
    """Writes the episodes."""
    record = {
        "gymnasium": gymnasium.__version__,
        "minatar": "1.0.15",
        "cartpole": classic("CartPole-v1", 60, 4),
        "acrobot": classic("Acrobot-v1", 60, 2),
        "breakout": bricks(700, 4),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(record, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
