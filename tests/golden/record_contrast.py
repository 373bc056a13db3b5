"""Records open_clip's losses: ``python record_contrast.py OUT.npz`` (needs torch and open_clip).

Unit image and text features, and the loss with its gradients by them and by the scale (and bias), of `ClipLoss`,
`SigLipLoss` and `CoCaLoss`.
"""

import importlib.metadata
import importlib.util
import sys

import numpy as np
import torch

# The file alone: the package imports torchvision, which the losses don't need.
SPEC = importlib.util.spec_from_file_location(
    "losses", importlib.metadata.distribution("open_clip_torch").locate_file("open_clip/loss.py")
)
losses = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(losses)

PAIRS, WIDTH, TIME, VOCABULARY = 8, 6, 5, 11


def main() -> None:
    """Writes everything that a test compares with."""
    torch.manual_seed(0)
    record = {}
    image, text = (torch.nn.functional.normalize(torch.randn(PAIRS, WIDTH), dim=-1) for _ in range(2))
    logits = torch.randn(PAIRS, TIME, VOCABULARY)
    labels = torch.randint(1, VOCABULARY, (PAIRS, TIME))
    labels[:, 3:] = torch.where(torch.rand(PAIRS, 2) < 0.5, 0, labels[:, 3:])
    record |= {"image": image, "text": text, "logits": logits, "labels": labels}

    def of(name, loss, **fields):
        fields = {field: value.clone().requires_grad_() for field, value in fields.items()}
        total = loss(**fields)
        total.backward()
        record[f"{name}/loss"] = total
        record.update({f"{name}/{field}": value.grad for field, value in fields.items()})

    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    of("clip", lambda image, text, scale: losses.ClipLoss()(image, text, scale), image=image, text=text, scale=scale)
    of(
        "siglip",
        lambda image, text, scale, bias: losses.SigLipLoss()(image, text, scale, bias),
        image=image, text=text, scale=scale, bias=bias,
    )  # fmt: skip
    coca = losses.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0)
    of(
        "coca",
        lambda image, text, scale, logits: sum(coca(image, text, logits, labels, scale)),
        image=image, text=text, scale=scale, logits=logits,
    )  # fmt: skip
    versions = {name: importlib.metadata.version(name) for name in ("open_clip_torch", "torch")}
    np.savez(sys.argv[1], **{name: value.detach().numpy() for name, value in record.items()}, **versions)


if __name__ == "__main__":
    main()
