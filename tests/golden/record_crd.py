"""Records torchdistill's contrastive representation distillation: ``python record_crd.py OUT.npz``.

Two steps of one loss: the losses, their gradients by both sides' embeddings, the normalising constants and the banks.
Needs torch and torchdistill.
"""

import sys
from importlib.metadata import version

import numpy as np
import torch
from torchdistill.losses.mid_level import CRDLoss

EXAMPLES, NEGATIVES, DIMENSION, BATCH = 10, 6, 4, 3


def main() -> None:
    """Writes the file."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    loss = CRDLoss(
        "norm", "empty", "norm", input_size=DIMENSION, output_size=EXAMPLES, num_negative_samples=NEGATIVES,
        num_samples=EXAMPLES, temperature=0.2, momentum=0.3,
    )  # fmt: skip
    result = {"banks": torch.stack([loss.memory_v1, loss.memory_v2]).clone()}
    for step in range(2):
        places = torch.randperm(EXAMPLES, generator=generator)[:BATCH]
        drawn = torch.randint(0, EXAMPLES, (BATCH, NEGATIVES), generator=generator)
        drawn = torch.cat([places[:, None], drawn], 1)
        sides = torch.nn.functional.normalize(torch.randn((2, BATCH, DIMENSION), generator=generator), dim=2)
        sides.requires_grad_()
        given = {"norm": {"output": sides[0]}, "empty": {"input": {"pos_idx": places, "contrast_idx": drawn}}}
        value = loss(given, {"norm": {"output": sides[1]}})
        (gradient,) = torch.autograd.grad(value.sum(), sides)
        own = {
            "places": places, "drawn": drawn, "embeddings": sides, "loss": value, "gradient": gradient,
            "normalisers": loss.params[2:4].clone(), "banks": torch.stack([loss.memory_v1, loss.memory_v2]).clone(),
        }  # fmt: skip
        result |= {f"step_{step}/{name}": found for name, found in own.items()}
    versions = np.array([f"{name} {version(name)}" for name in ("torch", "torchdistill")])
    np.savez_compressed(sys.argv[1], versions=versions, **{name: x.detach().numpy() for name, x in result.items()})


if __name__ == "__main__":
    main()
