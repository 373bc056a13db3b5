"""DoRA, VeRA, LoHa, LoKr, OFT, BOFT, the bottlenecks and the starts of LoRA: what holds for each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import LowRank, compose, make_step, merge, optimizer, parameters, supervised
from ft_jax.core.adapters import map_operators
from ft_jax.core.params import count, paths
from ft_jax.models import tiny_decoder
from ft_jax.transfer.boft import Butterfly
from ft_jax.transfer.fourierft import places
from ft_jax.transfer.lokr import factorized
from ft_jax.transfer.oft import cayley, constrained, skew_symmetric
from ft_jax.transfer.pissa import principal

MODEL = tiny_decoder(jax.random.key(0), layers=1)
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
FORWARD = jax.jit(lambda params: MODEL.apply(params, BATCH).logits)
UP = MODEL.params["layers"]["0"]["mlp"]["up"]["kernel"]


def start(*methods, params=MODEL.params):
    method = compose(*methods)
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    return program, method, jax.jit(program.init)(params, jax.random.key(2))


def randomised(state, seed=5):
    leaves, outline = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return state.replace(params=outline.unflatten(drawn))


def up(params):
    return params["layers"]["0"]["mlp"]["up"]["kernel"]


SURGERIES = {
    "rslora": lambda: transfer.rslora(rank=2),
    "orthogonal": lambda: transfer.lora(rank=4, start="orthogonal"),
    "gaussian": lambda: transfer.lora(rank=4, start="gaussian"),
    "dora": lambda: transfer.dora(rank=2),
    "pissa": lambda: transfer.pissa(rank=2),
    "pissa_fast": lambda: transfer.pissa(rank=2, alpha=5.0, iterations=2),
    "olora": lambda: transfer.olora(rank=2),
    "vera": lambda: transfer.vera(rank=40),
    "loha": lambda: transfer.loha(rank=20),
    "lokr": lambda: transfer.lokr(rank=1, factor=4, both=True),
    "oft": lambda: transfer.oft(block=4),
    "oft_shared": lambda: transfer.oft(block=4, shared=True, terms=None),
    "boft": lambda: transfer.boft(block=4, factors=2),
    "fourierft": lambda: transfer.fourierft(frequencies=40, start="zeros"),
    "hra": lambda: transfer.hra(rank=4),
    "houlsby": lambda: transfer.houlsby(size=3, also=()),
}


@pytest.mark.parametrize("kind", SURGERIES)
def test_it_starts_at_the_base_and_once_trained_merges(kind):
    _, method, state = start(SURGERIES[kind]())
    np.testing.assert_allclose(FORWARD(parameters(state, method)["model"]), FORWARD(MODEL.params), atol=2e-6, rtol=1e-5)
    trained = parameters(randomised(state), method)["model"]
    assert np.abs(FORWARD(trained) - FORWARD(MODEL.params)).max() > 1e-2
    if kind == "houlsby":
        with pytest.raises(ValueError, match=r"^transfer.houlsby is nonlinear and can't be merged into a weight; keep"):
            merge(trained)
    else:
        np.testing.assert_allclose(FORWARD(merge(trained)), FORWARD(trained), atol=3e-5, rtol=1e-4)


def test_the_merged_update_is_the_papers_formula():
    _, method, state = start(transfer.dora(rank=2, alpha=6.0), params=MODEL.params)
    weight = up(parameters(randomised(state), method)["model"])
    direction = UP + 6.0 / 2 * weight.a @ weight.b
    expected = weight.magnitude * direction / np.linalg.norm(direction, axis=0)
    np.testing.assert_allclose(weight.materialize(), expected, rtol=1e-5, atol=1e-6)

    _, method, state = start(transfer.vera(rank=3))
    whole = parameters(randomised(state), method)
    weight, a, b = up(whole["model"]), whole["transfer.vera"]["a"], whole["transfer.vera"]["b"]
    expected = UP + (a[:16] * weight.inner) @ (b[:, :32] * weight.outer)
    np.testing.assert_allclose(weight.materialize(), expected, rtol=1e-5, atol=1e-6)
    assert a.shape == (32, 3) and b.shape == (3, 32)

    _, method, state = start(transfer.loha(rank=2, alpha=3.0))
    weight = up(parameters(randomised(state), method)["model"])
    update = (weight.first_a @ weight.first_b) * (weight.second_a @ weight.second_b)
    np.testing.assert_allclose(weight.materialize(), UP + 3.0 / 2 * update, rtol=1e-5, atol=1e-6)

    _, method, state = start(transfer.lokr(rank=2, alpha=3.0))
    weight = up(parameters(randomised(state), method)["model"])
    assert weight.left.shape == (4, 4) and weight.right_a.shape == (4, 2) and weight.right_b.shape == (2, 8)
    expected = UP + 3.0 / 2 * np.kron(weight.left, weight.right_a @ weight.right_b)
    np.testing.assert_allclose(weight.materialize(), expected, rtol=1e-5, atol=1e-6)


def test_an_update_of_few_frequencies_is_a_sum_of_waves():
    _, method, state = start(transfer.fourierft(frequencies=7, scale=30.0, seed=3))
    weight = up(parameters(state.with_hyper({"transfer.fourierft.scale": 60.0}), method)["model"])
    rows, columns = places(3, 16, 32, 7)
    assert len(set(zip(rows, columns, strict=True))) == 7 and weight.spectrum.shape == (7,)
    i, j = np.arange(16)[:, None], np.arange(32)
    waves = [
        c * np.cos(2 * np.pi * (p * i / 16 + q * j / 32))
        for c, p, q in zip(weight.spectrum, rows, columns, strict=True)
    ]
    np.testing.assert_allclose(weight.materialize(), UP + 60.0 / (16 * 32) * sum(waves), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_reflections_multiply_to_an_orthogonal_matrix_near_one(orthogonal):
    _, method, state = start(transfer.hra(rank=4, orthogonal=orthogonal))
    weight = up(parameters(randomised(state), method)["model"])
    u = np.asarray(weight.u, np.float64)
    directions = np.linalg.qr(u)[0] if orthogonal else u / np.linalg.norm(u, axis=0)
    product = np.eye(16)
    for n in directions.T:
        product = (np.eye(16) - 2 * np.outer(n, n)) @ product
    np.testing.assert_allclose(weight.materialize(), product @ UP, rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(product - np.eye(16), tol=1e-6) == 4
    np.testing.assert_allclose(product @ product.T, np.eye(16), atol=1e-10)


def test_the_scale_of_rslora_is_over_the_root_of_the_rank():
    _, method, state = start(transfer.rslora(rank=4, alpha=8.0, ranks={"*/down/*": 9}))
    layer = parameters(state, method)["model"]["layers"]["0"]["mlp"]
    assert (layer["up"]["kernel"].scale, layer["down"]["kernel"].scale) == (4.0, pytest.approx(8 / 3))
    layer = parameters(state.with_hyper({"transfer.rslora.alpha": 2.0}), method)["model"]["layers"]["0"]["mlp"]
    assert layer["up"]["kernel"].scale == 1.0


def test_the_norm_of_dora_gets_no_gradient():
    """A constant norm leaves the gradient of a along the direction in; with the norm's own it would be taken out."""
    _, method, state = start(transfer.dora(rank=2))
    state = randomised(state)
    weight = up(parameters(state, method)["model"])
    x = jax.random.normal(jax.random.key(3), (5, 16))

    def found(b):
        import dataclasses

        return jnp.sum(dataclasses.replace(weight, b=b).matmul(x) ** 2)

    norm = np.linalg.norm(weight.base + weight.scale * weight.a @ weight.b, axis=0)

    def wanted(b):
        return jnp.sum((weight.magnitude / norm * (x @ (weight.base + weight.scale * weight.a @ b))) ** 2)

    np.testing.assert_allclose(jax.grad(found)(weight.b), jax.grad(wanted)(weight.b), rtol=1e-4, atol=1e-5)


def test_pissa_holds_the_largest_singular_values_and_freezes_the_rest():
    _, method, state = start(transfer.pissa(rank=3, alpha=6.0))
    weight = up(parameters(state, method)["model"])
    values = np.linalg.svd(UP, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(2.0 * weight.a @ weight.b, compute_uv=False)[:3], values[:3], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(weight.base, 2), values[3], rtol=1e-4)
    np.testing.assert_allclose(weight.a.T @ weight.a, weight.b @ weight.b.T, atol=1e-4)
    assert not any("base" in path for path in paths(state.params))


def test_a_randomised_decomposition_comes_near_the_exact_one():
    low = jax.random.normal(jax.random.key(0), (60, 5)) @ jax.random.normal(jax.random.key(1), (5, 90))
    matrix = low + 0.05 * jax.random.normal(jax.random.key(2), (60, 90))
    exact, fast = (jnp.matmul(*principal(matrix, 5, iterations, jax.random.key(3))) for iterations in (None, 4))
    assert jnp.linalg.norm(fast - exact) < 1e-3 * jnp.linalg.norm(exact)


def test_the_orthogonal_start_has_two_factors_that_are_not_zero_and_a_product_that_is():
    _, method, state = start(transfer.lora(rank=4, start="orthogonal"))
    weight = up(parameters(state, method)["model"])
    assert min(float(jnp.abs(factor).max()) for factor in (weight.a, weight.b)) > 0.01
    np.testing.assert_allclose(weight.a @ weight.b, 0.0, atol=1e-6)


def test_rotations_are_orthogonal_and_the_series_approaches_them():
    q = skew_symmetric(0.02 * jax.random.normal(jax.random.key(0), (3, 6)), 4)
    exact = cayley(q)
    np.testing.assert_allclose(exact @ jnp.swapaxes(exact, 1, 2), jnp.broadcast_to(jnp.eye(4), (3, 4, 4)), atol=1e-6)
    np.testing.assert_allclose(exact, (jnp.eye(4) - q) @ jnp.linalg.inv(jnp.eye(4) + q), atol=1e-6)
    np.testing.assert_allclose(cayley(q, 5), jnp.swapaxes(exact, 1, 2), atol=5e-5)


def test_rotations_keep_angles_between_neurons():
    _, method, state = start(transfer.oft(block=8, terms=None))
    turned = up(merge(parameters(randomised(state), method)["model"]))
    np.testing.assert_allclose(turned.T @ turned, UP.T @ UP, atol=1e-4)
    assert np.abs(turned - UP).max() > 0.05


def test_a_butterfly_lets_every_output_see_more_than_a_block():
    for factors, share in ((1, 2 / 16), (2, 4 / 16), (4, 1.0)):
        drawn = jax.random.normal(jax.random.key(factors), (factors, 8, 2, 2))
        rotation = Butterfly(jnp.eye(16), drawn, jnp.ones(16)).materialize()
        np.testing.assert_allclose(rotation @ rotation.T, jnp.eye(16), atol=1e-5)
        assert np.mean(np.abs(rotation) > 1e-9) == share


def test_constrained_rotations_stay_within_epsilon_while_training():
    program, method, state = start(transfer.oft(block=4, epsilon=1e-3))
    state, _ = jax.jit(program.step)(state, BATCH)
    skew = up(parameters(state, method)["model"]).skew
    lengths = np.sqrt(2.0 * (skew**2).sum(-1))
    assert lengths.max() <= 1e-3 / 2 * 1.0001 and lengths.max() > 4e-4
    again = constrained(state.params, 1e-3, "transfer.oft")
    np.testing.assert_allclose(up(again["model"]).skew, skew, rtol=1e-6)


def test_lokr_divides_widths_as_lycoris():
    """The rule of its function ``factorization``, written out slowly."""
    for width in range(2, 200):
        for factor in (-1, 1, 4, 7, 16):
            if factor > 0 and width % factor == 0:
                expected = (factor, width // factor)
            else:
                limit = width if factor == -1 else factor
                small = max(d for d in range(1, width + 1) if width % d == 0 and d * d <= width and d <= limit)
                expected = (small, width // small)
            assert factorized(width, factor) == expected


def test_a_bottleneck_is_behind_the_bias_and_the_others_go_beneath_it():
    _, method, state = start(transfer.lora(rank=2, targets="*down/kernel"), transfer.pfeiffer(size=3))
    kernel = parameters(randomised(state), method)["model"]["layers"]["0"]["mlp"]["down"]["kernel"]
    assert kernel.owner == "transfer.pfeiffer" and kernel.base.owner == "transfer.lora"
    x, bias = jax.random.normal(jax.random.key(1), (5, 32)), jax.random.normal(jax.random.key(2), (16,))
    h = x @ kernel.base.materialize() + bias
    expected = h + jax.nn.relu(h @ kernel.down + kernel.down_bias) @ kernel.up + kernel.up_bias
    np.testing.assert_allclose(kernel.matmul(x, bias), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: transfer.vera(rank=5, targets="*up/kernel"), 5 + 32),
        (lambda: transfer.houlsby(size=3, also=()), 2 * (16 * 3 + 3 + 3 * 16 + 16)),
        (lambda: transfer.pfeiffer(size=3), 16 * 3 + 3 + 3 * 16 + 16),
        (lambda: transfer.boft(block=4, factors=2, targets="*up/kernel"), 2 * 16 * 4 + 32),
    ],
)
def test_what_learns_is_what_the_paper_counts(make, expected):
    assert count(start(make())[2].params) == expected


def test_eva_begins_at_the_directions_that_vary_most_and_gives_ranks_where_they_explain_most():
    seen = []

    def apply(params, batch, key):
        from ft_jax.core import Outputs, matmul

        seen.append(1)
        hidden = matmul(params["first"]["kernel"], batch["x"])
        return Outputs(hidden=matmul(params["second"]["kernel"], jnp.tanh(hidden)), unembedding=None)

    directions = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (12, 12)))[0]
    strengths = jnp.array([9.0, 5.0, 3.0, *[0.01] * 9])
    x = (jax.random.normal(jax.random.key(1), (400, 12)) * strengths) @ directions.T
    params = {
        "first": {"kernel": jax.random.normal(jax.random.key(2), (12, 10))},
        "second": {"kernel": jax.random.normal(jax.random.key(3), (10, 6))},
    }
    batches = [{"x": part} for part in jnp.split(x, 4)]
    method = transfer.eva(apply, params, batches, rank=2, rho=2.0, alpha=4.0)
    changed = method.surgery({"model": params}, jax.random.key(4))["model"]
    ranks = {name: weight["kernel"].a.shape[1] for name, weight in changed.items()}
    assert sum(ranks.values()) == 4
    first = changed["first"]["kernel"]
    assert isinstance(first, LowRank) and not np.any(first.b) and float(first.scale) == 4.0 / ranks["first"]
    for i in range(min(3, ranks["first"])):
        assert abs(float(first.a[:, i] @ directions[:, i])) > 0.95
    assert len(seen) == 1
    with pytest.raises(ValueError, match="transfer.eva asks for 30 singular vectors and model/.* read only"):
        transfer.eva(apply, params, batches[:1], rank=30)


def test_dropout_thins_what_the_update_reads_and_only_while_training():
    method = transfer.lora(rank=2, targets="*up/kernel", dropout=0.5)
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    state = randomised(program.init(MODEL.params, jax.random.key(2)))
    step, plain = jax.jit(program.step), jax.jit(start(transfer.lora(rank=2, targets="*up/kernel"))[0].step)
    losses = [float(step(state.replace(step=jnp.int32(i)), BATCH)[1]["loss"]) for i in range(3)]
    assert len(set(losses)) == 3
    none = state.with_hyper({"transfer.lora.dropout": 0.0})
    without = none.replace(hyper={**none.hyper, "transfer.lora": {"alpha": none.hyper["transfer.lora"]["alpha"]}})
    np.testing.assert_allclose(step(none, BATCH)[1]["loss"], plain(without, BATCH)[1]["loss"], rtol=1e-6)
    shown = parameters(state, method)["model"]
    assert type(up(shown)) is LowRank


def test_dropout_keeps_the_mean_of_the_update():
    from ft_jax.transfer.dropout import Dropped

    for make in (transfer.lora, transfer.dora):
        _, method, state = start(make(rank=2, targets="*up/kernel"))
        weight = up(parameters(randomised(state), method)["model"])
        x = jax.random.normal(jax.random.key(1), (3, 16))
        keys = jax.random.split(jax.random.key(2), 4000)
        thinned = jax.vmap(lambda key, w=weight, x=x: Dropped(w, jnp.float32(0.3), key).matmul(x))(keys)
        np.testing.assert_allclose(thinned.mean(0), weight.matmul(x), atol=0.12)
        assert thinned.std(0).min() > 0.01


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: transfer.dora(rank=9), "transfer.dora has rank 9, but model/layers/0/attention/key/kernel is 16 by 8"),
        (lambda: transfer.loha(rank=0), "transfer.loha has rank 0; give it at least 1"),
        (
            lambda: transfer.vera(targets="*q_proj*"),
            r"transfer.vera: no weight matches \*q_proj\*; the nearest paths are",
        ),
        (lambda: transfer.lokr(factor=0), "transfer.lokr has factor 0; give a positive number, or -1"),
        (lambda: transfer.oft(block=5), "transfer.oft has blocks of 5, but model/.* reads 16, .* use 4 or 2"),
        (
            lambda: transfer.boft(block=4, factors=4),
            "transfer.boft has 4 factors of blocks of 4, but model/.* reads 16",
        ),
        (lambda: transfer.hra(rank=3), "transfer.hra has rank 3, and its directions start in pairs; use 4"),
        (
            lambda: transfer.hra(rank=18, orthogonal=True),
            "transfer.hra has rank 18, but model/.* reads 16, where no more directions are at right angles",
        ),
        (lambda: transfer.fourierft(0), "transfer.fourierft has 0 frequencies; give it at least 1"),
        (lambda: transfer.fourierft(4000), r"has 4000 frequencies, but model/\S* has \d+ numbers; use at most as many"),
        (lambda: transfer.fourierft(3, start="ones"), "has start 'ones'; use 'normal' or 'zeros'"),
        (lambda: transfer.houlsby(activation="swish"), "transfer.houlsby has activation 'swish'; use 'gelu', 'relu'"),
        (
            lambda: transfer.lora(rank=3, start="orthogonal"),
            "starts orthogonal at rank 3, which it halves; use an even",
        ),
        (lambda: transfer.lora(start="zeros"), "transfer.lora has start 'zeros'; use 'kaiming', 'gaussian'"),
        (
            lambda: transfer.lora(dropout=1.0),
            r"transfer.lora has dropout 1.0; give a rate from 0 up to 1 \(without it\)",
        ),
        (lambda: transfer.pissa(iterations=-1), "transfer.pissa has -1 iterations; give 0 or more, or None"),
        (
            lambda: transfer.vera(rank=2, projections=(jnp.ones((8, 2)), jnp.ones((2, 8)))),
            "shares projections of 8 inputs",
        ),
    ],
)
def test_a_wrong_choice_is_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as error:
        start(make())
    assert "\n" not in str(error.value)


def test_nested_adapters_merge_in_any_order():
    for methods in (
        (transfer.oft(block=4), transfer.dora(rank=2), transfer.lora(rank=2)),
        (transfer.pissa(rank=2), transfer.oft(block=4), transfer.vera(rank=3)),
    ):
        _, method, state = start(*methods)
        np.testing.assert_allclose(FORWARD(parameters(state, method)["model"]), FORWARD(MODEL.params), atol=1e-5)
        trained = parameters(randomised(state), method)["model"]
        np.testing.assert_allclose(FORWARD(merge(trained)), FORWARD(trained), atol=1e-4, rtol=1e-3)
        owners = []
        map_operators(lambda weight, owners=owners: owners.append(weight.owner) or weight, {"k": up(trained)})
        assert sorted(owners) == sorted(part.name for part in method)


@pytest.mark.parametrize("make", [lambda: transfer.vera(rank=3), lambda: transfer.boft(block=4, factors=2)])
def test_on_scanned_layers_it_starts_at_the_base_and_trains(make):
    scanned, method = MODEL.configure(scan=True), make()
    program = make_step(supervised(scanned.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    state = jax.jit(program.init)(scanned.params, jax.random.key(2))
    shown = parameters(state, method)["model"]
    np.testing.assert_allclose(scanned.apply(shown, BATCH).logits, FORWARD(MODEL.params), atol=1e-5)
    state, before = jax.jit(program.step)(state, BATCH)
    assert jax.jit(program.step)(state, BATCH)[1]["loss"] < before["loss"]
