"""Steps a second in many copies of CartPole, acting and learning, beside Gymnasium, gymnax and rejax.

``acting`` takes random actions in copies that begin anew where an episode ends; the peers are Gymnasium's vector
environment (``gymnasium`` in numpy at once, ``gymnasium-sync`` copy by copy) and ``gymnax``. ``learning`` is PPO from
the environment to the updated network, with rejax beside it: the same copies, steps, epochs, minibatches, and networks
of two layers for policy and values. Each is timed in turn with its peer, so that other load meets both.

``ft-jax bench environments --peer gymnasium gymnax rejax --peer-python PYTHON`` where PYTHON has them.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import models
from ft_jax.core import make_step, optimizer, supervised
from ft_jax.rl.agents import agent_ppo
from ft_jax.rl.environments import CartPole, start
from ft_jax.rl.environments.environment import advance, keys_of

from . import peer
from .case import Options
from .timing import spread

PEERS = {"acting": ("gymnasium", "gymnasium-sync", "gymnax"), "learning": ("rejax",)}
"""Kinds of measurement and who is measured beside."""

COPIES, CHUNK = (1, 64, 1024), 128
"""Copies of the environment when acting, and steps of each in what is timed at once."""

LEARNING = {"copies": 64, "chunk": 64, "epochs": 4, "minibatches": 4, "rate": 3e-4}
"""Numbers of PPO, ours and rejax's."""


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each kind, number of copies and peer; without a peer ours alone.

    Raises:
      ValueError: an unknown kind or peer, or a peer that the interpreter has not.
    """
    asked = options.asked("environments", tuple(PEERS), default=tuple(PEERS))
    known = [one for kind in PEERS.values() for one in kind]
    strange = [one for one in options.peer if one not in known]
    if strange:
        raise ValueError(f"environments has no peer {strange[0]!r}; use {', '.join(known)}")
    for kind in asked:
        numbers = [{"copies": count, "chunk": CHUNK} for count in COPIES] if kind == "acting" else [LEARNING]
        for told in numbers:
            run = acting(told) if kind == "acting" else learning(told)
            beside = [one for one in options.peer if one in PEERS[kind]]
            steps = told["copies"] * told["chunk"]
            for variant in beside or [None]:
                yield {"kind": kind, **told, "peer": variant, **timed(run, steps, told, variant, options)}


def acting(told: dict[str, Any]) -> Callable[[], Any]:
    """A chunk of random actions, in one compiled program."""
    environment, count = CartPole(), told["copies"]

    @jax.jit
    def chunk(copies, key):
        def one(carry, _):
            copies, key = carry
            key, choose, go = jax.random.split(key, 3)
            actions = jax.random.randint(choose, (count,), 0, environment.actions)
            copies, seen = advance(environment, copies, actions, keys_of(go, jnp.arange(count)))
            return (copies, key), seen.reward.sum()

        (copies, key), rewards = jax.lax.scan(one, (copies, key), None, told["chunk"])
        return copies, key, rewards.sum()

    now = [start(environment, jax.random.split(jax.random.key(0), count)), jax.random.key(1)]

    def run():
        copies, key, total = chunk(*now)
        now[:] = [copies, key]
        return float(total)

    return run


def learning(told: dict[str, Any]) -> Callable[[], Any]:
    """A rollout and all updates on it, in one compiled program."""
    environment, widths = CartPole(), (64, 64)
    model = models.mlp(models.MLPConfig(environment.observation, widths, 2, "tanh"), jax.random.key(0))
    method = agent_ppo(
        model.apply, model.params, environment, copies=told["copies"], steps=told["chunk"], epochs=told["epochs"],
        minibatches=told["minibatches"], critic=widths,
    )  # fmt: skip
    descent = optimizer(optax.adam, learning_rate=told["rate"], max_norm=0.5)
    program = make_step(supervised(model.apply), descent, method)
    nothing = {"seed": jnp.zeros(1, jnp.int32)}

    @jax.jit
    def chunk(state):
        def one(state, _):
            return program.step(state, nothing)[0], None

        return jax.lax.scan(one, state, None, told["epochs"] * told["minibatches"])[0]

    now = [program.init(model.params, jax.random.key(0))]

    def run():
        now[0] = chunk(now[0])
        return int(jax.block_until_ready(now[0]).step)

    return run


def timed(
    run: Callable[[], Any], steps: int, told: dict[str, Any], variant: str | None, options: Options
) -> dict[str, Any]:
    """Steps a second of ours and of a peer in turns; ratios are of the seconds that each process was busy.

    Args:
      run: takes so many steps.
      steps: of all copies.
      told: what the peer is told.
      variant: the peer, or None.
      options: how often, and which interpreter has the peer.
    """
    beside = None if variant is None else begun(variant, told, options.peer_python)
    # As many calls as last a tenth of a second, so that a clock's grain and a turn's beginning count little.
    often = max(1, round(0.1 / min(taken(run, 1)[0] for _ in range(4))))
    other = None if beside is None else max(1, round(0.1 / min(beside.steps(3)["seconds"])))
    wall: dict[str, list[float]] = {"ours": [], "peer": []}
    busy: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(options.repeats):
        seconds, own = taken(run, often)
        wall["ours"].append(seconds / often)
        busy["ours"].append(own / often)
        if beside is not None:
            found = beside.steps(other)
            wall["peer"].append(float(np.mean(found["seconds"])))
            busy["peer"].append(float(np.mean(found["cpu_seconds"])))
    row = {"steps_per_second": steps / float(np.median(busy["ours"])), "seconds": spread(wall["ours"])}
    row |= {"cpu_seconds": spread(busy["ours"]), "cores": cores()}
    if beside is None:
        return row
    beside.close()
    pairs = [[theirs / ours for ours, theirs in zip(*each.values(), strict=True)] for each in (busy, wall)]
    row |= {"peer_steps_per_second": steps / float(np.median(busy["peer"])), "peer_seconds": spread(wall["peer"])}
    row |= {"peer_cpu_seconds": spread(busy["peer"]), **beside.facts, "pairs": options.repeats}
    return row | {"ratio": spread(pairs[0]), "wall_ratio": spread(pairs[1])}


def taken(run: Callable[[], Any], count: int) -> tuple[float, float]:
    """Wall seconds, and those that this process was busy, of so many calls."""
    begin, before = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    return time.perf_counter() - begin, time.process_time() - before


def begun(variant: str, told: dict[str, Any], python: str | None) -> peer.Peer:
    """The peer's process.

    Raises:
      ValueError: where this interpreter is to run it and has not the package.
    """
    package = variant.partition("-")[0]
    if python is None and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"the peer needs {package}, which this environment has not; pip install {package}, or pass --peer-python "
            "with the interpreter of one that has it"
        )
    script = Path(__file__).with_name("peer_environments.py")
    return peer.opened(python or sys.executable, script, {"variant": variant, **told}, {"JAX_PLATFORMS": "cpu"})


def cores() -> int:
    """Of the processor that this process and the peer's may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
