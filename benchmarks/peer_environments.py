"""The peers of environments: Gymnasium, gymnax and rejax, in a process of their own that acts or learns when told to.

Started by `benchmarks.environments`. It reads one JSON object, builds what its ``variant`` names, answers with the
versions, and for every line ``steps N`` goes through N chunks of steps and answers with their seconds. It imports
nothing of this library.
"""

import json
import sys
import time
from importlib.metadata import version

NAME = "CartPole-v1"


def gymnasium(told):
    """A chunk of random actions in Gymnasium's vector environment: in numpy all at once, or copy by copy."""
    import gymnasium
    import numpy as np

    modes = {"gymnasium": "vector_entry_point", "gymnasium-sync": "sync"}
    copies, chunk = told["copies"], told["chunk"]
    worlds = gymnasium.make_vec(NAME, num_envs=copies, vectorization_mode=modes[told["variant"]])
    worlds.reset(seed=0)
    draw = np.random.default_rng(0)

    def run():
        actions = draw.integers(0, 2, (chunk, copies))
        total = 0.0
        for action in actions:
            total += float(worlds.step(action)[1].sum())
        return total

    return run, ("gymnasium", "numpy")


def gymnax(told):
    """A chunk of random actions in gymnax's environment, in one compiled program."""
    import gymnax
    import jax
    import jax.numpy as jnp

    copies = told["copies"]
    world, settings = gymnax.make(NAME)
    act, reset = (jax.vmap(step, axes) for step, axes in ((world.step, (0, 0, 0, None)), (world.reset, (0, None))))

    @jax.jit
    def chunk(state, key):
        def one(carry, _):
            state, key = carry
            key, choose, go = jax.random.split(key, 3)
            actions = jax.random.randint(choose, (copies,), 0, 2)
            state, reward = act(jax.random.split(go, copies), state, actions, settings)[1:3]
            return (state, key), reward.sum()

        (state, key), rewards = jax.lax.scan(one, (state, key), None, told["chunk"])
        return state, key, rewards.sum()

    now = [reset(jax.random.split(jax.random.key(0), copies), settings)[1], jax.random.key(1)]

    def run():
        state, key, total = chunk(*now)
        now[:] = [state, key]
        return float(jnp.asarray(total))

    return run, ("gymnax", "jax")


def of_five(world):
    """A gymnax environment whose step gives five values, as rejax 0.1 takes them; gymnax's own gives six since 1.0."""

    class Five(type(world)):
        def step(self, key, state, action, settings=None):
            told = super().step(key, state, action, settings)
            if len(told) == 5:
                return told
            seen, state, reward, ended, cut, more = told
            return seen, state, reward, ended | cut, more

    return Five()


def rejax(told):
    """One iteration of rejax's PPO with the numbers of ours: acting, advantages and all updates."""
    import gymnax
    import jax
    from rejax import PPO

    world, settings = gymnax.make(NAME)
    agent = PPO.create(
        env=of_five(world), env_params=settings, num_envs=told["copies"], num_steps=told["chunk"],
        num_epochs=told["epochs"], num_minibatches=told["minibatches"], learning_rate=told["rate"], max_grad_norm=0.5,
        agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
    )  # fmt: skip
    step = jax.jit(agent.train_iteration)
    now = [agent.init_state(jax.random.PRNGKey(0))]

    def run():
        now[0] = step(now[0])
        return int(jax.block_until_ready(now[0]).global_step)

    return run, ("rejax", "gymnax", "jax")


VARIANTS = {"gymnasium": gymnasium, "gymnasium-sync": gymnasium, "gymnax": gymnax, "rejax": rejax}


def main():
    """Serves one benchmark."""
    told = json.loads(sys.stdin.readline())
    run, packages = VARIANTS[told["variant"]](told)
    run()
    answer({"versions": {package: version(package) for package in packages}})
    for line in sys.stdin:
        seconds, busy = [], []
        for _ in range(int(line.split()[1])):
            begin, before = time.perf_counter(), time.process_time()
            run()
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - before)
        answer({"seconds": seconds, "cpu_seconds": busy})


def answer(values):
    """One line to the benchmark."""
    print("@" + json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
