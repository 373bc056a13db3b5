"""Records distances of logits and representations: ``python record_distillation.py FOLDER`` (torch, trl, torchdistill).

trl's generalised Jensen-Shannon divergence, torchdistill's DIST, standardised logits and RKD, each with its gradient by
the student.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchdistill.losses.mid_level import DISTLoss, LogitStdKDLoss, RKDLoss
from trl.experimental.gkd.gkd_trainer import GKDTrainer

IO = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}


def main() -> None:
    """Writes ``distillation.npz``."""
    generator = torch.Generator().manual_seed(0)
    student = (2 * torch.randn((6, 11), generator=generator)).requires_grad_()
    teacher = 2 * torch.randn((6, 11), generator=generator)
    wide = torch.randn((6, 5), generator=generator)
    result = {"student": student.detach(), "teacher": teacher, "wide": wide}

    def record(name, value):
        (gradient,) = torch.autograd.grad(value, student)
        result.update({f"{name}/value": value.detach(), f"{name}/gradient": gradient})

    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        record(f"jsd/{beta}", GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=beta) / 6)
    record(
        "jsd/warm", 4.0 * GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=0.3, temperature=2.0) / 6
    )
    outputs = ({".": {"output": student}}, {".": {"output": teacher}})
    record("dist", DISTLoss(**IO, beta=1.5, gamma=0.7, tau=2.0)(*outputs))
    standard = LogitStdKDLoss(**IO, temperature=2.0, alpha=0.0, beta=1.0)
    record("standardised", standard(*outputs, targets=None))
    rkd = RKDLoss("o", "o", 1.0, 2.0, "mean")
    record("rkd/distance", rkd.compute_rkd_distance_loss(wide, student))
    record("rkd/angle", rkd.compute_rkd_angle_loss(wide, student))
    versions = {f"version/{name}": version(name) for name in ("torch", "trl", "torchdistill")}
    arrays = {name: value.numpy() for name, value in result.items()}
    np.savez_compressed(Path(sys.argv[1]) / "distillation.npz", **arrays, **versions)


if __name__ == "__main__":
    main()
