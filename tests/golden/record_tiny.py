"""Writes a tiny random checkpoint with what transformers computes from it; the scripts beside it call this."""

from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def randomise(model: torch.nn.Module, seed: int = 7) -> torch.nn.Module:
    """`model` with every parameter drawn anew, large enough for each to show in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim < 2 else 0.15 * noise)
    return model.eval()


def padded(lengths: list[int], vocabulary: int, pad: int, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token rows of the given lengths, padded on the right, with their masks."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask > 0, ids, torch.full_like(ids, pad)), mask


def record(
    name: str, model, inputs: dict, wanted: dict, loss_of: str, mask, gradients: tuple[str, ...], **more
) -> None:
    """Writes the checkpoint of `model` and ``outputs.npz``.

    Args:
      name: of the folder.
      model: of transformers.
      inputs: what the model was called with.
      wanted: its outputs by name.
      loss_of: the output whose product with a random probe, summed where `mask` is 1, is differentiated.
      mask: broadcast against that output.
      gradients: the parameters whose gradients are kept.
      more: further arrays.
    """
    probe = torch.randn(wanted[loss_of].shape, generator=torch.Generator().manual_seed(5)) * mask
    model.zero_grad()
    (wanted[loss_of] * probe).sum().backward()
    found = dict(model.named_parameters())
    arrays = {f"input/{key}": value for key, value in inputs.items()} | {"probe": probe} | more
    arrays |= {f"output/{key}": value.detach() for key, value in wanted.items()}
    arrays |= {f"gradient/{key}": found[key].grad for key in gradients}
    model.save_pretrained(HERE / name)
    np.savez_compressed(
        HERE / name / "outputs.npz", **{key: np.asarray(value, order="C") for key, value in arrays.items()}
    )
