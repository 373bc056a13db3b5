"""What the recorded tiny checkpoints are compared with, and how."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.models.architectures import architecture_for, flat

GOLDEN = Path(__file__).parents[1] / "golden"

INCIDENTAL = {
    "transformers_version", "dtype", "torch_dtype", "initializer_range", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id", "classifier_dropout", "tie_word_embeddings", "is_decoder", "add_cross_attention",
}  # fmt: skip
"""What config.json says that no part of the forward pass reads."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A checkpoint, the model loaded from it, and what transformers computes from it."""

    folder: Path
    model: models.Model
    arrays: dict

    def batch(self, **renamed) -> dict:
        """The recorded inputs, some under other names; images with their channels last."""
        found = {name.removeprefix("input/"): x for name, x in self.arrays.items() if name.startswith("input/")}
        batch = {renamed.get(name, name): jnp.asarray(x) for name, x in found.items()}
        if "pixel_values" in batch:
            batch["images"] = batch.pop("pixel_values").transpose(0, 2, 3, 1)
        return batch

    def output(self, name: str) -> np.ndarray:
        """A recorded output."""
        return self.arrays[f"output/{name}"]


def recorded(name: str) -> Recorded:
    """The recorded checkpoint of that name."""
    folder = GOLDEN / name
    with np.load(folder / "outputs.npz") as arrays:
        return Recorded(folder, models.load(folder, tokenizer=False), dict(arrays))


def assert_gradients_equal(case: Recorded, output) -> None:
    """``output(params)`` times the recorded probe, summed, has the recorded gradients."""
    probe = case.arrays["probe"]
    gradients = flat(jax.jit(jax.grad(lambda params: (output(params) * probe).sum()))(case.model.params))
    stored = {}
    for path, tensor in architecture_for(case.model.config).tensors(case.model.config).items():
        for name in tensor.names:
            stored.setdefault(name, []).append((path, tensor))
    wanted = {name.removeprefix("gradient/"): x for name, x in case.arrays.items() if name.startswith("gradient/")}
    assert wanted
    for name, want in wanted.items():
        for path, tensor in stored[name] if name in stored else stored[_saved(name, stored)]:
            want_here = tensor.read(want)
            scale = max(1.0, np.abs(want_here).max())
            np.testing.assert_allclose(gradients[path] / scale, want_here / scale, atol=1e-4, err_msg=path)


def _saved(name, stored):
    """A parameter's name in the file, where transformers saves it under an older one."""
    return next(known for known in stored if known.endswith(name.removeprefix("model.")))


def assert_round_trip(case: Recorded, folder) -> None:
    """Saving writes the recorded tensors bit by bit and a configuration that says the same."""
    models.save(case.model, case.model.params, folder)
    saved, original = load_file(folder / "model.safetensors"), load_file(case.folder / "model.safetensors")
    assert sorted(saved) == sorted(original)
    table = architecture_for(case.model.config).tensors(case.model.config)
    # One added to a stored number and taken off again may round (Gemma's norms).
    rounded = {name for tensor in table.values() if tensor.offset for name in tensor.names}
    for name in original:
        atol = 1e-6 if name in rounded else 0.0
        np.testing.assert_allclose(saved[name], original[name], rtol=0.0, atol=atol, err_msg=name)
    again = models.load(folder, tokenizer=False)
    assert again.config == case.model.config
    atol = 1e-6 if rounded else 0.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.0, atol=atol), again.params, case.model.params)
    said, meant = (json.loads((place / "config.json").read_text()) for place in (folder, case.folder))
    for field in set(said) & set(meant) - INCIDENTAL:
        if not isinstance(meant[field], dict):
            assert said[field] == meant[field], field
