"""Float8 checkpoints are read as the numbers that they stand for."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.models.checkpoints.safetensors_file import write_safetensors

SOURCE = Path(__file__).parents[1] / "golden/tiny_llama"
NAME = "model.layers.0.mlp.up_proj.weight"


def quantised(folder, scaled, block=None, kind=ml_dtypes.float8_e4m3fn):
    """A copy of a checkpoint whose `NAME` is in float8, and the numbers that it stands for."""
    shutil.copytree(SOURCE, folder)
    tensors = load_file(SOURCE / "model.safetensors")
    weight = tensors[NAME]
    ending, scales = scaled(weight)
    by = np.kron(scales, np.ones(block))[: weight.shape[0], : weight.shape[1]] if block else scales
    codes = (weight / by).astype(kind)
    tensors[NAME] = codes
    if ending:
        tensors[NAME + ending] = scales.astype(np.float32)
    tensors[NAME.removesuffix("weight") + "input_scale"] = np.float32([0.5])
    outlines = {key: (x.shape, x.dtype) for key, x in tensors.items()}
    write_safetensors(folder / "model.safetensors", outlines, ((key, lambda x=x: x) for key, x in tensors.items()))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": block}
    (folder / "config.json").write_text(json.dumps(config))
    return codes.astype(np.float32) * by.astype(np.float32)


def blocks(weight):
    counts = [-(-size // edge) for size, edge in zip(weight.shape, (8, 12), strict=True)]
    return "_scale_inv", np.random.default_rng(0).uniform(0.01, 0.02, counts)


CASES = {
    "of blocks": (blocks, (8, 12)),
    "of rows": (lambda weight: ("_scale", np.abs(weight).max(1, keepdims=True) / 448), None),
    "of one tensor": (lambda weight: ("_scale", np.abs(weight).max().reshape(1, 1) / 448), None),
    "none": (lambda weight: ("", np.ones((1, 1))), None),
}


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_read_times_their_scales(case, kind, tmp_path):
    wanted = quantised(tmp_path / "float8", *CASES[case], kind=kind)
    model = models.load(tmp_path / "float8", tokenizer=False)
    got = model.params["layers"]["0"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(got.T, wanted, rtol=1e-6)
    folder = models.save(model, model.params, tmp_path / "saved")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")[NAME], np.asarray(got).T)


def test_scales_that_fit_no_blocks_are_refused(tmp_path):
    quantised(tmp_path / "float8", lambda weight: ("_scale_inv", blocks(weight)[1]), (8, 12))
    config = json.loads((tmp_path / "float8/config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [5, 5]
    (tmp_path / "float8/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has scales of shape .* correct weight_block_size"):
        models.load(tmp_path / "float8", tokenizer=False)
