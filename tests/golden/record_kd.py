"""Records torch's distillation loss and its gradient: ``python record_kd.py FOLDER`` (needs torch).

The loss is ``F.kl_div(log_softmax(student / T), softmax(teacher / T)) * T**2`` averaged over the positions of weight 1,
as in Hinton et al. 2015, for classes and for tokens.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


def loss(student, teacher, weights, temperature):
    """The weighted mean over positions."""
    log_q = F.log_softmax(student / temperature, dim=-1)
    p = F.softmax(teacher / temperature, dim=-1)
    rows = F.kl_div(log_q, p, reduction="none").sum(-1) * temperature**2
    return (rows * weights).sum() / weights.sum()


def main() -> None:
    """Writes ``kd.npz``."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for case, shape in (("classes", (6,)), ("tokens", (4, 9))):
        student = (2 * torch.randn((*shape, 11), generator=generator)).requires_grad_()
        teacher = 2 * torch.randn((*shape, 11), generator=generator)
        weights = (torch.rand(shape, generator=generator) > 0.3).float()
        result |= {f"{case}/student": student.detach(), f"{case}/teacher": teacher, f"{case}/weights": weights}
        for temperature in (1.0, 2.0, 4.0):
            value = loss(student, teacher, weights, temperature)
            (gradient,) = torch.autograd.grad(value, student)
            result |= {f"{case}/{temperature}/value": value.detach(), f"{case}/{temperature}/gradient": gradient}
    np.savez_compressed(Path(sys.argv[1]) / "kd.npz", **{name: value.numpy() for name, value in result.items()})


if __name__ == "__main__":
    main()
