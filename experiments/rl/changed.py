"""A changed environment: an old policy that goes on learning in it, beside one from scratch and ones held by EWC.

CartPole's pole is made longer, the grid's walls are moved. ``python -m experiments.rl.changed`` trains three agents on
the old environment in one program, then six kinds of three agents on the new one in a second program: from scratch,
going on, and going on under `ft_jax.incremental.ewc` of four weights, whose Fisher information is that of the old
policy where it went last. It prints a table and writes it as lines of JSON: the environment steps until the held-out
return reaches a target, and what the agents get at the end in both environments. About half an hour on two CPU cores.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import models
from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.incremental import ewc
from ft_jax.rl.agents import agent_ppo, returns
from ft_jax.rl.environments import CartPole, Environment, Grid
from ft_jax.rl.environments.environment import changed
from ft_jax.rl.environments.grid import ROOMS

from ..study import Claim, write_lines

AGENT, EWC = "rl.agent_ppo", "incremental.ewc"
MOVED = (
    "...#...",
    ".......",
    "...#...",
    "##.##.#",
    "...#...",
    "...#...",
    ".......",
)
"""Four rooms again, with other doors."""
DOOR = (".......", "...#...", "...#...", *ROOMS[3:])
"""The rooms of the old grid, whose upper door is at the wall."""


@dataclasses.dataclass(frozen=True)
class Change:
    """An environment, what becomes of it, and how agents learn in both.

    Attributes:
      old, new: the environments, of one shape.
      widths: of the policy's hidden layers, and of the critic's.
      rate: Adam's at first, which falls to nothing by the last evaluation.
      options: of `ft_jax.rl.agent_ppo`.
      old_looks, new_looks: evaluations in each environment.
      rollouts: between evaluations.
      score: a held-out episode's return as what is averaged.
      target: of the average in the new environment.
    """

    old: Environment
    new: Environment
    widths: tuple[int, ...]
    rate: float
    options: Mapping[str, float | int]
    old_looks: int
    new_looks: int
    rollouts: int
    score: Callable[[jax.Array], jax.Array]
    target: float

    @property
    def updates(self) -> int:
        """Between evaluations."""
        return self.rollouts * self.options["epochs"] * self.options["minibatches"]

    @property
    def steps(self) -> int:
        """Of the environment between evaluations, in all copies."""
        return self.rollouts * self.options["copies"] * self.options["steps"]


def reward(episodes):
    """The return itself."""
    return episodes


def arrived(episodes):
    """Whether the goal was reached: all else costs."""
    return jnp.float32(episodes > 0)


POLE = Change(
    CartPole(),
    changed(CartPole(), length=2.0),
    widths=(64, 64),
    rate=5e-4,
    options={"copies": 8, "steps": 128, "epochs": 4, "minibatches": 4},
    old_looks=40,
    new_looks=24,
    rollouts=8,
    score=reward,
    target=475.0,
)
WALLS = Change(
    Grid(),
    Grid(MOVED),
    widths=(128, 128),
    rate=1e-3,
    options={"copies": 64, "steps": 32, "epochs": 4, "minibatches": 4, "entropy_weight": 0.02},
    old_looks=38,
    new_looks=20,
    rollouts=10,
    score=arrived,
    target=0.95,
)
CHANGES = {
    "cartpole, pole of 4 m in place of 1": POLE,
    "cartpole, pole of 8 m in place of 1": dataclasses.replace(POLE, new=changed(CartPole(), length=4.0)),
    "grid, one door moved": dataclasses.replace(WALLS, new=Grid(DOOR)),
    "grid, all walls moved": WALLS,
}
WEIGHTS = {"from scratch": 0.0, "going on": 0.0} | {f"EWC {weight:g}": weight for weight in (0.1, 1.0, 10.0, 100.0)}
"""The kinds of agents and how strongly EWC holds them; all but the first begin where the old environment left them."""
SEEDS, EPISODES = 3, 100


class Learning:
    """The programs of one environment: agents begin, learn and are looked at, all at once.

    Args:
      change: how they learn.
      environment: that they learn in.
      looks: evaluations on the way.
    """

    def __init__(self, change: Change, environment: Environment, looks: int):
        self.change = change
        self.config = models.MLPConfig(environment.observation, change.widths, environment.actions, "tanh")
        model = models.mlp(self.config, jax.random.key(0))
        agent = agent_ppo(model.apply, model.params, environment, critic=change.widths, **change.options)
        method = compose(ewc(0.0, fisher="exact"), agent)
        falling = optax.linear_schedule(1.0, 0.0, looks * change.updates)
        descent = optimizer(optax.adam, schedule=falling, learning_rate=change.rate, max_norm=0.5)
        self.program = make_step(supervised(model.apply), descent, method, predict=returns)

    def begin(self, keys):
        """States of one agent a key, each with a network of its own."""

        def one(key):
            return self.program.init(models.mlp(self.config, key).params, key)

        states = jax.vmap(one)(keys)
        return states.replace(step=states.step[0], frozen=self.program.init(self._outline(), keys[0]).frozen)

    def _outline(self):
        return models.mlp(self.config, jax.random.key(0)).params

    @functools.partial(jax.jit, static_argnums=0)
    def look(self, states):
        """Each agent's mean score over held-out episodes ``[agents]``."""
        many = map_members(self.program, states.key.shape[0])
        found = many.evaluate(states, {"seed": jnp.arange(EPISODES)})
        return self.change.score(found.predictions).mean(axis=1)

    @functools.partial(jax.jit, static_argnums=0)
    def learn(self, states):
        """The states after as many updates as lie between two evaluations."""
        many = map_members(self.program, states.key.shape[0])
        nothing = {"seed": jnp.zeros(1, jnp.int32)}
        return jax.lax.scan(lambda now, _: (many.step(now, nothing)[0], None), states, length=self.change.updates)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def end(self, states):
        """What EWC knows of each agent once the environment is left, from where its policy went last."""

        def one(state):
            rows = state.memory[AGENT].rows
            batches = [{"images": rows["observation"], "labels": rows["action"]}]
            return self.program.after_task(state, batches).memory[EWC]

        many = {field: getattr(states, field) for field in ("params", "memory", "opt_state", "hyper", "key")}
        return jax.vmap(lambda part: one(states.replace(**part)))(many)


def joined(groups):
    """States of several groups of agents as those of one."""
    first = groups[0]
    many = {
        field: [getattr(one, field) for one in groups] for field in ("params", "memory", "opt_state", "hyper", "key")
    }
    return first.replace(**{f: jax.tree.map(lambda *x: jnp.concatenate(x), *parts) for f, parts in many.items()})


def followed(learning: Learning, states, looks: int, others: tuple[Learning, ...] = ()):
    """The states in the end, and what was seen on the way ``[looks + 1, agents]``, of `others` in the end alone."""
    seen = [learning.look(states)]
    for _ in range(looks):
        states = learning.learn(states)
        seen.append(learning.look(states))
    return states, np.array(seen), [np.array(other.look(states)) for other in others]


def measured(
    change: Change, looks: tuple[int, int] | None = None, weights: Mapping[str, float] | None = None, seed: int = 1
):
    """A row for every kind of agents: steps to the target, and the scores in both environments, by seed.

    Args:
      change: the environments.
      looks: evaluations in each in place of the change's.
      weights: kinds of agents in place of `WEIGHTS`.
      seed: of all three agents' keys; rates and lengths were chosen on others.
    """
    looks, weights = looks or (change.old_looks, change.new_looks), weights or WEIGHTS
    keys = jax.random.split(jax.random.key(seed), SEEDS)
    before, after = (Learning(change, *one) for one in zip((change.old, change.new), looks, strict=True))
    old, seen, _ = followed(before, before.begin(keys), looks[0])
    fresh = after.begin(jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
    # What was learned goes along; the environment's copies and the optimizer begin anew.
    going = fresh.replace(params=old.params, memory={**fresh.memory, EWC: before.end(old)})
    kinds = [fresh if kind == "from scratch" else going for kind in weights]
    states = joined(kinds)
    held = jnp.repeat(jnp.array(list(weights.values()), jnp.float32), SEEDS)
    states = states.replace(hyper={**states.hyper, EWC: {**states.hyper[EWC], "weight": held}})
    _, new, (remembered,) = followed(after, states, looks[1], (before,))
    rows = [{"kind": "the old policy", "new": after.look(going).tolist(), "old": seen[-1].tolist()}]
    for at, kind in enumerate(weights):
        own = slice(at * SEEDS, (at + 1) * SEEDS)
        reached = [first_at_least(curve, change.target) for curve in new[:, own].T]
        steps = [None if at is None else at * change.steps for at in reached]
        rows.append({"kind": kind, "steps": steps, "new": new[-1, own].tolist(), "old": remembered[own].tolist()})
    return rows


def first_at_least(curve, target: float) -> int | None:
    """The place of the first value that reaches a target.

    Example:
      >>> first_at_least([0.1, 0.9, 0.2], 0.5)
      1
    """
    at = np.flatnonzero(np.asarray(curve) >= target)
    return int(at[0]) if len(at) else None


def claims(name: str, change: Change, rows) -> list[Claim]:
    """That going on needs fewer steps for every seed, and that EWC keeps the old environment solved."""
    by = {row["kind"]: row for row in rows}
    ours, theirs = (by[kind]["steps"] for kind in ("going on", "from scratch"))
    never = float("inf")
    pairs = [(never if a is None else a, never if b is None else b) for a, b in zip(ours, theirs, strict=True)]
    said = [
        Claim(
            f"{name}: steps to {change.target:g} going on {ours}, from scratch {theirs}", all(a < b for a, b in pairs)
        )
    ]
    plain = np.mean(by["going on"]["old"])
    for kind in [kind for kind in by if kind.startswith("EWC")]:
        old, new = np.mean(by[kind]["old"]), np.mean(by[kind]["new"])
        told = (
            f"{name}: {kind} ends at {old:.4g} in the old and {new:.4g} in the new; going on at {plain:.4g} in the old"
        )
        said.append(Claim(told, bool(old >= change.target and new >= change.target)))
    return said


def main() -> None:
    """Prints the tables and claims, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/changed.jsonl"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, change in CHANGES.items():
        rows = measured(change)
        lines += [{"change": name, "target": change.target, **row} for row in rows]
        for row in rows:
            print(json.dumps(row), flush=True)
        for claim in claims(name, change, rows):
            lines.append({"change": name, **dataclasses.asdict(claim)})
            print(f"{'met   ' if claim.met else 'MISSED'} {claim.text}", flush=True)
    write_lines(arguments.out, lines)


if __name__ == "__main__":
    main()
