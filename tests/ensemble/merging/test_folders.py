"""Merged folders: what the rule gives tensor by tensor, loadable, and nothing written where the input is wrong."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.ensemble import merging
from ft_jax.models.checkpoints.safetensors_file import read_folder, write_safetensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base and two models near it, saved."""
    parent = tmp_path_factory.mktemp("models")
    base = models.tiny_decoder(jax.random.key(0))
    folders = {"base": models.save(base, base.params, parent / "base")}
    for index, name in enumerate("ab"):
        leaves, structure = jax.tree.flatten(base.params)
        keys = jax.random.split(jax.random.key(index + 1), len(leaves))
        moved = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
        folders[name] = models.save(base, jax.tree.unflatten(structure, moved), parent / name)
    return folders


def tensors(folder) -> dict[str, np.ndarray]:
    return {name: tensor.load() for name, tensor in read_folder(Path(folder)).items()}


@pytest.mark.parametrize(
    "rule", [merging.uniform(), merging.ties(density=0.3), merging.ties(density=0.3, trim_over="model"), merging.tsv()]
)
def test_a_folder_is_merged_as_its_tensors_are(saved, tmp_path, rule):
    merged = merging.merge_folders(rule, [saved["a"], saved["b"]], tmp_path / "out", base=saved["base"], weights=(1, 2))
    wanted = merging.merge_trees(
        rule, [tensors(saved["a"]), tensors(saved["b"])], base=tensors(saved["base"]), weights=(1, 2)
    )
    found = tensors(tmp_path / "out")
    assert set(found) == set(wanted)
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-6)
    loaded = models.load(merged.folder)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(models.load(saved["a"]).params)
    assert json.loads((merged.folder / "merge.json").read_text())["rule"] == rule.name


def test_a_merge_over_shards_is_the_merge_over_one_file(saved, tmp_path):
    one = merging.merge_folders(merging.uniform(), [saved["a"], saved["b"]], tmp_path / "one")
    several = merging.merge_folders(
        merging.uniform(), [saved["a"], saved["b"]], tmp_path / "several", max_shard_bytes=9000
    )
    assert len(list(several.folder.glob("*.safetensors"))) > 1
    for name, value in tensors(one.folder).items():
        np.testing.assert_array_equal(value, tensors(several.folder)[name])
    models.load(several.folder)


def test_one_tensor_of_each_model_is_read_at_a_time(saved, tmp_path, monkeypatch):
    held = []

    def watched(rule):
        def combine(piece):
            held.append(piece.models.shape)
            return rule.combine(piece)

        return merging.Rule("uniform", combine)

    merging.merge_folders(watched(merging.uniform()), [saved["a"], saved["b"]], tmp_path / "out")
    assert len(held) == len(tensors(saved["a"])) and all(shape[0] == 2 for shape in held)


def test_the_account_says_how_far_and_how_aligned(saved, tmp_path):
    merged = merging.merge_folders(merging.uniform(), [saved["a"], saved["b"]], tmp_path / "out", base=saved["base"])
    a, b, base = (np.concatenate([x.ravel() for x in tensors(saved[name]).values()]) for name in ("a", "b", "base"))
    np.testing.assert_allclose(merged.distances[0], np.linalg.norm((a - b) / 2) / np.linalg.norm(a), rtol=1e-5)
    cosine = (a - base) @ (b - base) / np.linalg.norm(a - base) / np.linalg.norm(b - base)
    np.testing.assert_allclose(merged.cosines[0][1], cosine, atol=1e-5)
    np.testing.assert_allclose(merged.conflicts, np.mean((a - base) * (b - base) < 0), atol=1e-6)
    assert merged.parameters == a.size


def test_the_type_can_be_another(saved, tmp_path):
    merged = merging.merge_folders(merging.uniform(), [saved["a"], saved["b"]], tmp_path / "out", dtype="bfloat16")
    assert all(tensor.dtype == jnp.bfloat16 for tensor in read_folder(merged.folder).values())
    assert json.loads((merged.folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    models.load(merged.folder)


def rewritten(folder, to, change=lambda tensors: tensors, config=lambda config: config):
    """A copy of a folder with other tensors or another configuration."""
    shutil.copytree(folder, to)
    found = change(tensors(folder))
    outlines = {name: (x.shape, x.dtype) for name, x in found.items()}
    write_safetensors(to / "model.safetensors", outlines, ((name, lambda x=x: x) for name, x in found.items()))
    described = config(json.loads((to / "config.json").read_text()))
    (to / "config.json").write_text(json.dumps(described))
    return to


def test_a_head_that_the_base_never_had_is_averaged_when_asked(saved, tmp_path):
    headed = [
        rewritten(
            saved[name], tmp_path / name, lambda x, k=k: x | {"classifier.weight": np.full((2, 2), k, np.float32)}
        )
        for k, name in enumerate("ab")
    ]
    rule, out = merging.task_arithmetic(), tmp_path / "out"
    with pytest.raises(ValueError, match=r"has a tensor 'classifier.weight' and the base .* has none"):
        merging.merge_folders(rule, headed, out, base=saved["base"])
    assert not out.exists()
    merged = merging.merge_folders(rule, headed, out, base=saved["base"], average=("classifier",))
    np.testing.assert_allclose(tensors(merged.folder)["classifier.weight"], 0.5)
    wanted = merging.merge_trees(rule, [tensors(saved["a"]), tensors(saved["b"])], base=tensors(saved["base"]))
    np.testing.assert_allclose(tensors(merged.folder)["model.norm.weight"], wanted["model.norm.weight"], atol=1e-6)


def test_wrong_folders_are_refused_and_nothing_is_written(saved, tmp_path):
    other = rewritten(saved["a"], tmp_path / "mistral", config=lambda config: config | {"model_type": "mistral"})
    short = rewritten(
        saved["a"], tmp_path / "short", lambda x: {n: v[:-1] if n == "model.norm.weight" else v for n, v in x.items()}
    )
    out = tmp_path / "out"
    cases = [
        ([saved["a"], other], {}, "only models of one architecture merge"),
        ([saved["a"], short], {}, r"'model.norm.weight' has shape \(\d+,\) in .*a and \(\d+,\) in .*short"),
        ([saved["a"], saved["a"]], {}, "given twice"),
        ([saved["a"], saved["b"]], {"average": ("clasifier",)}, "no tensor's name starts with 'clasifier'"),
        ([saved["a"], saved["b"]], {"fishers": [saved["a"]]}, "2 models and 1 Fisher"),
    ]
    for folders, options, says in cases:
        with pytest.raises(ValueError, match=says):
            merging.merge_folders(merging.uniform(), folders, out, **options)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        merging.merge_folders(merging.uniform(), [saved["a"], tmp_path], out)
    with pytest.raises(FileExistsError, match="overwrite"):
        merging.merge_folders(merging.uniform(), [saved["a"], saved["b"]], saved["b"])
    assert not out.exists()
