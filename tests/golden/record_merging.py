"""Records merges of three small tensors by the reference implementations: ``python record_merging.py OUT.npz``.

Run it once for each of the environments: with mergekit, with peft, with fusion_bench's sources on the path (its two
files of functions alone are imported). What a run can't import it takes from OUT.npz as it stands. Needs torch
everywhere. Random masks and chances are recorded beside what came of them.
"""

import contextlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import torch

DENSITY = 0.4


def tensors() -> dict[str, np.ndarray]:
    """The base and three models, ``[12, 8]``."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(12, 8))
    return {"base": base, "models": base + 0.3 * generator.normal(size=(3, 12, 8))}


def mergekit(data) -> dict[str, np.ndarray]:
    """mergekit's methods with ``rescale`` off and on."""
    from mergekit import sparsify
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.merge_methods.slerp import slerp

    base, models = (torch.tensor(data[name], dtype=torch.float32) for name in ("base", "models"))
    vectors = models - base
    found = {}
    trimmed = torch.stack([sparsify.magnitude(v, DENSITY) for v in vectors])
    weights = torch.tensor([1.0, 0.5, 2.0])[:, None, None]
    weighted = trimmed * weights
    mask = get_mask(weighted, "sum")
    divisor = (weights * mask).sum(0)
    divisor[divisor == 0] = 1
    found["ties"] = base + (weighted * mask).sum(0) / divisor
    found["slerp"] = slerp(torch.tensor([[0.3]]), models[0][None], models[1][None])[0]
    torch.manual_seed(0)
    mask = torch.bernoulli(torch.full((12, 8), DENSITY))
    found["mask"] = mask
    for norm in (None, sparsify.RescaleNorm.l1):
        name = "kept" if norm is None else "kept_l1"
        found[name] = sparsify.rescaled_masked_tensor(vectors[0], mask, norm)
    seen = []

    def bernoulli(chances):
        seen.append(chances)
        return torch.ones_like(chances)

    drawn, torch.bernoulli = torch.bernoulli, bernoulli
    sparsify.della_magprune(vectors[0], DENSITY, 0.2)
    torch.bernoulli = drawn
    found["della_chances"] = seen[0]
    return {f"mergekit_{name}": np.asarray(value) for name, value in found.items()} | whole_mergekit(base, models)


def whole_mergekit(base, models) -> dict[str, np.ndarray]:
    """The methods through mergekit's own entry points."""
    import json
    import tempfile

    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from safetensors.torch import load_file, save_file

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 12,
        "torch_dtype": "float32", "tie_word_embeddings": False,
    }  # fmt: skip
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (12, 8), "lm_head.weight": (12, 8), "model.norm.weight": (8,),
        layer + "input_layernorm.weight": (8,), layer + "post_attention_layernorm.weight": (8,),
        layer + "mlp.gate_proj.weight": (12, 8), layer + "mlp.up_proj.weight": (12, 8),
        layer + "mlp.down_proj.weight": (8, 12),
        **{layer + f"self_attn.{n}_proj.weight": (8, 8) for n in "qkvo"},
    }  # fmt: skip
    cases = {
        "linear": ("linear", {}, (1.0, 0.5, 2.0)),
        "task_arithmetic": ("task_arithmetic", {"lambda": 0.7}, (1.0, 0.5, 2.0)),
        "whole_ties": ("ties", {"normalize": True}, (1.0, 0.5, 2.0)),
        "model_stock": ("model_stock", {}, None),
        "whole_slerp": ("slerp", {"t": 0.3}, None),
    }
    results = {}
    with tempfile.TemporaryDirectory() as parent:
        parent = Path(parent)
        for name, tensor in (("base", base), *((f"m{k}", m) for k, m in enumerate(models))):
            (parent / name).mkdir()
            (parent / name / "config.json").write_text(json.dumps(config))
            generator = torch.Generator().manual_seed(0)
            filler = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
            save_file(filler | {"lm_head.weight": tensor.contiguous()}, parent / name / "model.safetensors")
        for name, (method, options, weights) in cases.items():
            listed = [{"model": str(parent / f"m{k}")} for k in range(2 if method == "slerp" else 3)]
            for entry, weight in zip(listed, weights or (), strict=False):
                entry["parameters"] = {"weight": weight} | ({"density": DENSITY} if method == "ties" else {})
            content = {"merge_method": method, "models": listed, "parameters": options, "dtype": "float32"}
            if method != "linear":
                content["base_model"] = str(parent / ("m0" if method == "slerp" else "base"))
            out = parent / f"out_{name}"
            run_merge(
                MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(content))), str(out),
                options=MergeOptions(copy_tokenizer=False, quiet=True),
            )  # fmt: skip
            shard = next(out.glob("*.safetensors"))
            results[f"mergekit_{name}"] = load_file(shard)["lm_head.weight"].numpy()
    return results


def peft(data) -> dict[str, np.ndarray]:
    """peft's rules on task vectors, and its merges of adapters."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import merge_utils

    base, models = (torch.tensor(data[name], dtype=torch.float32) for name in ("base", "models"))
    vectors, ones = list(models - base), torch.ones(3)
    found = {"ties": merge_utils.ties(vectors, ones, DENSITY)}
    torch.manual_seed(1)
    found["masks"] = torch.stack([torch.bernoulli(torch.full((12, 8), DENSITY)) for _ in vectors])
    torch.manual_seed(1)
    found["dare_linear"] = merge_utils.dare_linear(vectors, ones, DENSITY)
    torch.manual_seed(1)
    found["dare_ties"] = merge_utils.dare_ties(vectors, ones, DENSITY)
    torch.manual_seed(2)
    model = torch.nn.Sequential()
    model.add_module("up", torch.nn.Linear(8, 12, bias=False))
    model.add_module("down", torch.nn.Linear(12, 8, bias=False))
    adapted = None
    for name, rank, alpha in (("first", 2, 3), ("second", 3, 5)):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["up", "down"], init_lora_weights=False)
        if adapted is None:
            adapted = get_peft_model(model, config, adapter_name=name)
        else:
            adapted.add_adapter(name, config)
    for name in ("first", "second"):
        for module in ("up", "down"):
            layer = adapted.base_model.model.get_submodule(module)
            found[f"{name}_{module}_A"] = layer.lora_A[name].weight
            found[f"{name}_{module}_B"] = layer.lora_B[name].weight
    for how, options in {"cat": {}, "svd": {"svd_rank": 2}, "ties_svd": {"svd_rank": 2, "density": 0.5}}.items():
        weights = [1.0, 1.0] if how == "ties_svd" else [0.7, -0.4]
        adapted.add_weighted_adapter(["first", "second"], weights, f"merged_{how}", combination_type=how, **options)
        for module in ("up", "down"):
            layer = adapted.base_model.model.get_submodule(module)
            found[f"{how}_{module}"] = layer.get_delta_weight(f"merged_{how}")
    return {f"peft_{name}": value.detach().numpy() for name, value in found.items()}


def fusion_bench(data) -> dict[str, np.ndarray]:
    """TSV-Merge and Iso-C as fusion_bench has them, on task vectors."""
    import importlib.util
    import types

    def load(path, **stubs):
        for name, attributes in stubs.items():
            module = types.ModuleType(name.replace("__", "."))
            module.__dict__.update(attributes)
            sys.modules[module.__name__] = module
        where = next(Path(entry) / path for entry in sys.path if (Path(entry) / path).is_file())
        spec = importlib.util.spec_from_file_location(Path(path).stem, where)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    stubs = {
        "fusion_bench": {},
        "fusion_bench__utils": {"timeit_context": lambda *_: contextlib.nullcontext()},
        "fusion_bench__utils__type": {"StateDictType": dict},
    }
    tsv = load("fusion_bench/method/task_singular_vector/utils/TSVM_utils.py", **stubs)
    iso = load("fusion_bench/method/isotropic_merging/iso_utils.py", **stubs)
    base, models = (torch.tensor(data[name], dtype=torch.float32) for name in ("base", "models"))
    vectors = [{"w": v, "b": v[0]} for v in models - base]
    merged = {
        "tsv": tsv.compute_and_sum_svd_mem_reduction(vectors, accelerator="cpu"),
        "iso_c": iso.iso_c(vectors, "cpu"),
    }
    return {f"fusion_bench_{rule}_{key}": value[key].numpy() for rule, value in merged.items() for key in "wb"}


def main() -> None:
    """Adds what can be imported here to the file."""
    out = Path(sys.argv[1])
    found = dict(np.load(out)) if out.exists() else {}
    found |= tensors()
    for name, record in {"mergekit": mergekit, "peft": peft, "fusion_bench": fusion_bench}.items():
        try:
            found |= record(tensors())
        except (ImportError, StopIteration) as error:
            print(f"{name}: {error}")
            continue
        for package in (name, "torch"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[f"version_{package}"] = np.array(importlib.metadata.version(package).partition("+")[0])
    found.setdefault("version_fusion_bench", np.array("0.2.33"))
    np.savez_compressed(out, **found)
    print(sorted(found), out.stat().st_size)


if __name__ == "__main__":
    main()
