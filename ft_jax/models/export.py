"""Models into folders that transformers loads."""

import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from ft_jax.core.weights import merge
from ft_jax.models.architectures import architecture_for, flat
from ft_jax.models.load import HEAD_NAMES
from ft_jax.models.model import Model


def save(model: Model, params, folder, *, overwrite: bool = False) -> Path:
    """Writes config.json, model.safetensors and the tokenizer, adapters merged into the weights.

    `load` and transformers' ``AutoModel.from_pretrained`` read the folder. A classifier's head is saved beside
    the network as ``classifier.weight`` and ``classifier.bias``, its pooling in config.json under ``ft_jax_head``.
    The folder appears whole or not at all.

    Args:
      model: gives configuration and tokenizer.
      params: the model's parameters, operators allowed.
      folder: where to.
      overwrite: whether an existing folder may be replaced.

    Returns:
      The folder.

    Raises:
      FileExistsError: where the folder is there and `overwrite` is off.
      ValueError: where the configuration has no published format, or parameters are missing or unknown.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; choose another folder, or pass overwrite=True")
    architecture = architecture_for(model.config)
    table, described = architecture.tensors(model.config), architecture.write(model.config)
    pooling = model.apply.pooling
    leaves = flat(merge(params))
    if pooling is not None:
        table = {**table, **HEAD_NAMES}
        described["ft_jax_head"] = {"pooling": pooling, "classes": int(leaves["head/kernel"].shape[1])}
    if set(leaves) != set(table):
        raise ValueError(
            f"parameters don't fit the configuration: missing {sorted(set(table) - set(leaves))[:4]}, "
            f"unknown {sorted(set(leaves) - set(table))[:4]}; pass the parameters of this model alone"
        )
    if model.stop_tokens:
        described["eos_token_id"] = list(model.stop_tokens)
    described["pad_token_id"] = model.pad_token
    described["torch_dtype"] = str(next(iter(leaves.values())).dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tensors = {
            tensor.name: tensor.write(np.asarray(jax.device_get(leaves[path]))) for path, tensor in table.items()
        }
        save_file(tensors, building / "model.safetensors", metadata={"format": "pt"})
        (building / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(building)
        building.chmod(0o755)
        _replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return folder


def _replace(building: Path, folder: Path) -> None:
    """Moves a finished folder into place; a previous one is deleted only once the new one stands."""
    if not folder.exists():
        building.rename(folder)
        return
    previous = Path(tempfile.mkdtemp(prefix=f".{folder.name}.previous.", dir=folder.parent))
    folder.rename(previous / folder.name)
    building.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
