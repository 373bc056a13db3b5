"""Merged LoRA adapters: exact sums, peft's recorded merges, and the model that loads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from golden.peft_reference import CONFIGS, load
from safetensors.numpy import save_file

from ft_jax import models
from ft_jax.core.weights import merge
from ft_jax.ensemble import merging
from ft_jax.models.architectures import flat
from ft_jax.models.checkpoints.safetensors_file import read_safetensors
from ft_jax.models.peft.files import CONFIG

GOLDEN = Path(__file__).parents[2] / "golden"
SCALES = {"first": 3 / 2, "second": 5 / 3}


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "merging.npz"))


@pytest.fixture(scope="module")
def two(golden, tmp_path_factory):
    """The recorded adapters, of ranks 2 and 3, written by `write_adapter` with their scale in the second factor."""
    parent = tmp_path_factory.mktemp("adapters")
    for name, scale in SCALES.items():
        factors = {m: (golden[f"peft_{name}_{m}_A"], scale * golden[f"peft_{name}_{m}_B"]) for m in ("up", "down")}
        merging.write_adapter(factors, parent / name)
    return [parent / name for name in SCALES]


def updates(folder) -> dict[str, np.ndarray]:
    """Each module's ``scale · B A`` by peft's rules for a file without patterns of alpha that differ from the rank."""
    tensors = {
        name: tensor.load() for name, tensor in read_safetensors(Path(folder) / "adapter_model.safetensors").items()
    }
    config = json.loads((Path(folder) / CONFIG).read_text())
    found = {}
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            alpha = next((v for p, v in config["alpha_pattern"].items() if p.replace("\\", "") == module), None)
            scale = (config["lora_alpha"] if alpha is None else alpha) / a.shape[0]
            found[module] = scale * tensors[name.replace("lora_A", "lora_B")] @ a
    return found


@pytest.mark.parametrize(
    ("how", "rule", "weights", "rank", "ranks"),
    [
        ("cat", merging.task_arithmetic(), (0.7, -0.4), None, (5, 5)),
        ("svd", merging.task_arithmetic(), (0.7, -0.4), 2, (2, 2)),
        ("ties_svd", merging.ties(density=0.5), None, 2, (2, 2)),
    ],
)
def test_adapters_merge_to_pefts_updates(golden, two, tmp_path, how, rule, weights, rank, ranks):
    merged = merging.merge_adapters(rule, two, tmp_path / "out", weights=weights, rank=rank)
    for module, update in updates(merged.folder).items():
        np.testing.assert_allclose(update, golden[f"peft_{how}_{module}"], atol=2e-5)
    assert merged.ranks == ranks


def test_what_the_rank_has_no_room_for_is_told(golden, two, tmp_path):
    merged = merging.merge_adapters(merging.uniform(), two, tmp_path / "out", rank=1)
    exact = {
        m: sum(s * golden[f"peft_{n}_{m}_B"] @ golden[f"peft_{n}_{m}_A"] for n, s in SCALES.items()) / 2
        for m in ("up", "down")
    }
    left = {module: update - updates(merged.folder)[module] for module, update in exact.items()}
    whole = np.sqrt(sum(np.sum(x**2) for x in exact.values()))
    np.testing.assert_allclose(merged.lost, np.sqrt(sum(np.sum(x**2) for x in left.values())) / whole, rtol=1e-4)
    assert merging.merge_adapters(merging.uniform(), two, tmp_path / "whole", rank=5).lost < 1e-6


def test_a_model_with_the_merged_adapter_has_the_sum_of_the_updates(tmp_path):
    """An adapter of peft's with patterns of ranks and alphas and rsLoRA, and one of one module."""
    llama = load("llama")
    model = models.Model(CONFIGS["llama"], llama.params, llama.apply)
    source = GOLDEN / "peft" / "lora_patterns"
    tensors = {
        name: x.load() for name, x in read_safetensors(source / "adapter_model.safetensors").items() if "lora_" in name
    }
    plain = tmp_path / "plain"
    shutil.copytree(source, plain)
    save_file(tensors, plain / "adapter_model.safetensors")
    config = json.loads((plain / CONFIG).read_text()) | {"bias": "none"}
    (plain / CONFIG).write_text(json.dumps(config))
    module = "model.layers.0.self_attn.q_proj"
    width = tensors[f"base_model.model.{module}.lora_A.weight"].shape[1]
    outputs = tensors[f"base_model.model.{module}.lora_B.weight"].shape[0]
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(3, width)), generator.normal(size=(outputs, 3))
    merging.write_adapter({module: (a, b)}, tmp_path / "other")
    merged = merging.merge_adapters(merging.task_arithmetic(0.5), [plain, tmp_path / "other"], tmp_path / "out")

    def kernels(folder):
        _, params = models.load_adapter(folder, model)
        return flat(merge(params))

    base = flat(model.params)
    first, both = kernels(plain), kernels(merged.folder)
    other = {"layers/0/attention/query/kernel": (b @ a).T}
    changed = 0
    for path, start in base.items():
        wanted = start + 0.5 * (first[path] - start) + 0.5 * other.get(path, 0.0)
        np.testing.assert_allclose(both[path], wanted, atol=2e-5)
        changed += bool(np.abs(both[path] - start).max() > 1e-4)
    assert changed >= 8


def test_wrong_adapters_are_refused_and_nothing_is_written(two, tmp_path):
    out = tmp_path / "out"

    def changed(name, **config):
        shutil.copytree(two[0], tmp_path / name)
        described = json.loads((two[0] / CONFIG).read_text()) | config
        (tmp_path / name / CONFIG).write_text(json.dumps(described))
        return tmp_path / name

    merging.write_adapter({"up": (np.ones((2, 5)), np.ones((12, 2)))}, tmp_path / "wide")
    cases = [
        (merging.ties(), two, {}, r"different ranks \(2 in .*first, 3 in .*second\) and ties is no sum"),
        (merging.uniform(), [two[0], tmp_path / "wide"], {}, r"'up' is \(12, 8\) in .*first and \(12, 5\) in .*wide"),
        (merging.uniform(), [two[0], changed("dora", use_dora=True)], {}, "DoRA adapter, which is no sum"),
        (merging.uniform(), [two[0], changed("oft", peft_type="OFT")], {}, "is a 'OFT' adapter; only LoRA"),
        (merging.uniform(), [two[0], changed("pissa", init_lora_weights="pissa")], {}, "changes the base"),
        (merging.uniform(), [two[0], two[0]], {}, "given twice"),
        (merging.fisher(), two, {}, "pass fishers|no adapters"),
        (merging.uniform(), two, {"rank": 0}, "rank is 0"),
        (
            merging.uniform(),
            [changed("x", base_model_name_or_path="x"), changed("y", base_model_name_or_path="y")],
            {},
            "different bases",
        ),
    ]
    for rule, adapters, options, says in cases:
        with pytest.raises(ValueError, match=says):
            merging.merge_adapters(rule, adapters, out, **options)
    with pytest.raises(FileNotFoundError, match="adapter_config"):
        merging.merge_adapters(merging.uniform(), [two[0], tmp_path], out)
    assert not out.exists()


def test_heads_saved_beside_adapters_are_averaged(tmp_path):
    source = GOLDEN / "peft" / "classifier"
    tensors = {name: x.load() for name, x in read_safetensors(source / "adapter_model.safetensors").items()}
    head = next(name for name in tensors if "lora_" not in name)
    shutil.copytree(source, tmp_path / "other")
    save_file(
        {n: 3 * x if n == head else x for n, x in tensors.items()}, tmp_path / "other" / "adapter_model.safetensors"
    )
    merged = merging.merge_adapters(merging.uniform(), [source, tmp_path / "other"], tmp_path / "out")
    found = read_safetensors(merged.folder / "adapter_model.safetensors")[head].load()
    np.testing.assert_allclose(found, 2 * tensors[head], rtol=1e-6)
    assert json.loads((merged.folder / CONFIG).read_text())["modules_to_save"] == ["classifier", "score"]
