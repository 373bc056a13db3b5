"""KnOTS: against a slow version over whole matrices, and adapters by their factors against their products."""

from pathlib import Path

import numpy as np
import pytest

from ft_jax.cli.entry import main
from ft_jax.ensemble import merging
from ft_jax.models.checkpoints.safetensors_file import read_safetensors

OUTPUTS, INPUTS = 7, 9


def slow(updates, weights, density, scale=1.0, normalize=True):
    """The singular vectors of all updates side by side, and TIES entry by entry."""
    u, s, vt = np.linalg.svd(np.concatenate(updates, axis=1), full_matrices=False)
    kept = s > 1e-5 * s[0]
    u, coordinates = u[:, kept], (np.diag(s) @ vt)[kept]
    parts = [coordinates[:, k * INPUTS : (k + 1) * INPUTS] for k in range(len(updates))]
    for part in parts:
        least = np.sort(np.abs(part).ravel())[::-1][max(1, int(density * part.size)) - 1]
        part[np.abs(part) < least] = 0
    merged = np.zeros_like(parts[0])
    for place in np.ndindex(merged.shape):
        values = [weight * part[place] for weight, part in zip(weights, parts, strict=True)]
        sign = 1 if sum(values) >= 0 else -1
        agree = [(value, weight) for value, weight in zip(values, weights, strict=True) if np.sign(value) == sign]
        if agree:
            merged[place] = sum(value for value, _ in agree) / (sum(w for _, w in agree) if normalize else 1)
    return scale * u @ merged


def factors(seed, ranks):
    draw = np.random.default_rng(seed)
    return [(draw.normal(size=(rank, INPUTS)), draw.normal(size=(OUTPUTS, rank))) for rank in ranks]


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_whole_matrices_are_the_slow_version(density, weights):
    updates = [b @ a for a, b in factors(0, (2, 3, 1))]
    base = np.random.default_rng(1).normal(size=(OUTPUTS, INPUTS))
    for normalize in (True, False):
        rule = merging.knots(density, 0.7, normalize)
        merged = merging.merge_trees(rule, [{"w": base + x} for x in updates], base={"w": base}, weights=weights)
        np.testing.assert_allclose(merged["w"] - base, slow(updates, weights, density, 0.7, normalize), atol=1e-9)


def updates_of(folder):
    tensors = {name: x.load() for name, x in read_safetensors(Path(folder) / "adapter_model.safetensors").items()}
    return {
        name.split(".")[2]: tensors[name.replace("lora_A", "lora_B")] @ a
        for name, a in tensors.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize("density", [1.0, 0.4])
def test_adapters_merge_by_their_factors_to_what_their_products_do(density, tmp_path):
    """Of unlike ranks, more of them together than outputs there are, and with a module that one of them lacks."""
    up, down = factors(0, (2, 3, 4)), factors(1, (2, 3))
    adapters = {"a": {"up": up[0], "down": down[0]}, "b": {"up": up[1]}, "c": {"up": up[2], "down": down[1]}}
    for name, modules in adapters.items():
        merging.write_adapter(modules, tmp_path / name)
    weights = (1.0, 0.5, 2.0)
    merged = merging.merge_adapters(
        merging.knots(density), [tmp_path / name for name in adapters], tmp_path / "out", weights=weights
    )
    found = updates_of(merged.folder)
    np.testing.assert_allclose(found["up"], slow([b @ a for a, b in up], weights, density), atol=2e-5)
    both = slow([b @ a for a, b in down], (1.0, 2.0), density)
    np.testing.assert_allclose(found["down"], both, atol=2e-5)
    assert merged.ranks == (5, 7) and merged.lost == 0
    cut = merging.merge_adapters(
        merging.knots(density), [tmp_path / name for name in adapters], tmp_path / "cut", weights=weights, rank=2
    )
    u, s, vt = np.linalg.svd(both)
    np.testing.assert_allclose(updates_of(cut.folder)["down"], (u[:, :2] * s[:2]) @ vt[:2], atol=2e-5)
    assert cut.ranks == (2, 2) and cut.lost > 0


def test_turning_the_outputs_turns_the_merge_which_is_not_so_of_ties():
    updates = [b @ a for a, b in factors(0, (2, 2))]
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(OUTPUTS, OUTPUTS)))

    def merged(rule, updates):
        zeros = {"w": np.zeros((OUTPUTS, INPUTS))}
        return merging.merge_trees(rule, [{"w": x} for x in updates], base=zeros)["w"]

    for rule, turns in ((merging.knots(0.5), True), (merging.ties(0.5), False)):
        once, other = turn @ merged(rule, updates), merged(rule, [turn @ x for x in updates])
        assert np.allclose(once, other, atol=1e-8) == turns


def test_the_command_merges_by_it(tmp_path, capsys):
    for name, pair in zip("ab", factors(0, (2, 3)), strict=True):
        merging.write_adapter({"up": pair}, tmp_path / name)
    words = [
        "merge",
        "knots",
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--density",
        "0.5",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 0
    assert "knots (density 0.5" in capsys.readouterr().out
    with pytest.raises(ValueError, match="knots has density 0.0"):
        merging.knots(0.0)
