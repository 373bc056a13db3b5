"""AdaLoRA allocates as peft's RankAllocator does, within the compiled step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.tiny_checkpoints import GOLDEN

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, merge, optimizer, parameters, supervised
from ft_jax.core.state import StepEvent
from ft_jax.models import tiny_decoder
from ft_jax.models.networks.parts.stacking import unstack_layers
from ft_jax.transfer.adalora import Schedule, learned

FIELDS = {"a": "lora_A", "values": "lora_E", "b": "lora_B"}
NAME = "transfer.adalora"


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "adalora.npz") as file:
        return dict(file)


def as_here(record, prefix, field, module):
    """A recorded array in this library's layout."""
    stored = record[f"{prefix}/{module}.{FIELDS[field]}"]
    return jnp.asarray(stored.reshape(-1) if field == "values" else stored.T)


def test_it_allocates_as_peft_does(recorded):
    record = recorded
    given = {name.removeprefix("schedule/"): x.item() for name, x in record.items() if name.startswith("schedule/")}
    schedule = {"steps": given["total_step"], "warmup": given["tinit"], "final": given["tfinal"]}
    method = transfer.adalora(
        **schedule, every=given["deltaT"], rank=4, target=1, targets="*/kernel",
        sensitivity=given["beta1"], uncertainty=given["beta2"],
    )  # fmt: skip
    sizes = {"one": (5, 7), "two": (7, 4), "three": (4, 6)}
    model = {module: {"kernel": jnp.zeros(size)} for module, size in sizes.items()}
    program = make_step(lambda *_: None, optax.identity(), method)

    def filled(state, array):
        tree = {
            module: {
                "kernel": type(kernel["kernel"])(
                    None, *(array(field, module) for field in FIELDS), None, Schedule(1), NAME
                )
            }
            for module, kernel in state.params["model"].items()
        }
        outline = jax.tree.structure(state.params)
        return jax.tree.unflatten(outline, jax.tree.leaves({"model": tree}))

    state = program.init(model, jax.random.key(0))
    state = state.replace(params=filled(state, lambda field, module: as_here(record, "start", field, module)))
    after, pruned = jax.jit(method.after_step), []
    for step in range(1, given["total_step"] + 1):
        gradients = filled(state, lambda field, module, at=step: as_here(record, f"{at}/gradient", field, module))
        moved = jax.tree.map(lambda x, gradient: x - 0.1 * gradient, state.params, gradients)
        state = after(
            state.replace(params=moved, step=jnp.int32(step)), StepEvent({}, {}, gradients, gradients, None, None)
        )
        kept = learned(state.params, NAME)
        for module in sizes:
            values = as_here(record, f"{step}/values", "values", module)
            np.testing.assert_allclose(kept[f"model/{module}/kernel"]["values"], values, rtol=1e-5, atol=1e-6)
        pruned.append(sum(int((own["values"] == 0).sum()) for own in kept.values()))
        for ours, theirs in (("sensitivity", "ipt"), ("uncertainty", "unc")):
            for module in sizes if step < given["total_step"] - given["tfinal"] else ():
                for field in FIELDS:
                    wanted = as_here(record, f"{step}/{theirs}", field, module)
                    found = state.memory[NAME][ours][f"model/{module}/kernel"][field]
                    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
    assert pruned[2] == 0 and pruned[-1] == 12 - 3
    for module in sizes:
        for field in FIELDS:
            wanted = as_here(record, "end", field, module)
            np.testing.assert_allclose(learned(state.params, NAME)[f"model/{module}/kernel"][field], wanted, rtol=1e-5)


def test_the_budget_falls_as_pefts(recorded):
    schedule = Schedule(24, warmup=3, final=5, every=2)
    budgets = [int(schedule.budget(jnp.int32(step), 12, 3.0)) for step in range(1, 25)]
    assert budgets == [int(recorded[f"{step}/budget"]) for step in range(1, 25)]


MODEL = tiny_decoder(jax.random.key(0), layers=2)
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


@pytest.mark.parametrize("scan", [False, True])
def test_a_plain_loop_prunes_to_its_target_without_compiling_again(scan):
    model = MODEL.configure(scan=scan)
    method = compose(transfer.adalora(12, rank=4, target=1.5, targets="attention", warmup=2, final=3))
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=1e-2), method)
    state, step, kept = program.init(model.params, jax.random.key(2)), jit_step(program.step), []
    for _ in range(12):
        state, metrics = step(state, BATCH)
        kept.append(int(metrics[f"{NAME}.kept"]))
    assert step.compilations() == 1
    # Two layers of four projections, of which query and the others begin with four triplets each.
    assert kept[:2] == [32, 32] and kept[-1] == 12 and all(now <= before for before, now in itertools.pairwise(kept))
    assert float(metrics["loss"]) > 1.0 and NAME in metrics
    values = jnp.concatenate([own["values"].ravel() for own in learned(state.params, NAME).values()])
    assert int((values != 0).sum()) == 12
    tuned = unstack_layers(parameters(state, method)["model"])
    outputs = [MODEL.apply(params, BATCH).logits for params in (tuned, merge(tuned))]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=3e-5)


def test_the_regularisation_is_the_mean_of_norms():
    method = transfer.adalora(5, rank=3, target=2, targets="attention", orthogonality=0.7)
    program = make_step(supervised(MODEL.apply), optax.sgd(0.0), method)
    state = program.init(MODEL.params, jax.random.key(2))
    _, metrics = jax.jit(program.step)(state, BATCH)
    gaps = [
        np.linalg.norm(np.asarray(square) - np.eye(3))
        for own in learned(state.params, NAME).values()
        for square in (own["a"].T @ own["a"], own["b"] @ own["b"].T)
    ]
    np.testing.assert_allclose(metrics[NAME], 0.7 * np.mean(gaps), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: transfer.adalora(0), "has steps 0; give it a whole number, at least 1"),
        (lambda: transfer.adalora(10, warmup=6, final=4), "leaves none to allocate in; give it more steps"),
        (lambda: transfer.adalora(10, rank=4), "has a mean rank of 8 as its target and begins at 4; give 0 to 4"),
        (lambda: transfer.adalora(10, rank=0, target=0), "has rank 0; give it a whole number, at least 1"),
        (lambda: transfer.adalora(10, sensitivity=1.0), "has sensitivity 1.0; give a rate between 0 and 1"),
        (lambda: transfer.adalora(10, orthogonality=-1.0), "has orthogonality -1.0; give it at least 0"),
    ],
)
def test_what_can_not_be_allocated_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_its_steps_can_not_be_forgotten():
    with pytest.raises(TypeError, match="steps"):
        transfer.adalora()
