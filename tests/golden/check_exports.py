"""Has transformers load what is saved here: ``python check_exports.py``.

Every recorded checkpoint of the scripts beside this one is loaded, saved again and given to transformers, which must
miss no tensor, find none left over, and compute the recorded outputs. Needs torch and transformers beside ft_jax.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from ft_jax import models

HERE = Path(__file__).parent
NAMES = (
    "tiny_bert_lm", "tiny_roberta", "tiny_distilbert", "tiny_modernbert", "tiny_t5", "tiny_t5_gated", "tiny_vit",
    "tiny_dinov2", "tiny_dinov2_swiglu", "tiny_clip", "tiny_siglip", "tiny_whisper", "tiny_llava", "tiny_paligemma",
    "tiny_bert_classifier", "tiny_roberta_tagger", "tiny_llama_reward", "tiny_bert_regression",
    "tiny_roberta_classifier", "tiny_distilbert_classifier", "tiny_modernbert_classifier", "tiny_modernbert_first",
    "tiny_modernbert_tagger", "tiny_qwen2_classifier", "tiny_qwen3_tagger", "tiny_gpt2_classifier", "tiny_gpt2_tagger",
)  # fmt: skip
TOLERANCE = 2e-5


def difference(name: str, folder: Path) -> float:
    """Of what transformers computes from the saved folder to what was recorded; infinite where tensors don't fit."""
    model = models.load(HERE / name, tokenizer=False)
    models.save(model, model.params, folder)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # The class it was recorded with, which may be one with a head.
    recorded = json.loads((HERE / name / "config.json").read_text(encoding="utf-8"))
    kind = getattr(transformers, recorded["architectures"][0])
    other, report = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    if any(report.values()):
        print(f"{name}: {report}")
        return float("inf")
    with np.load(HERE / name / "outputs.npz") as arrays:
        inputs = {x.removeprefix("input/"): torch.tensor(arrays[x]) for x in arrays if x.startswith("input/")}
        wanted = arrays["output/last"] if "output/last" in arrays else arrays["output/logits"]
    labels = inputs.pop("labels", None)
    if labels is not None:
        start = torch.full_like(labels[:, :1], described["decoder_start_token_id"])
        inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], dim=1)
    with torch.no_grad():
        outputs = other.eval()(**inputs)
    fields = ("logits", "logits_per_image", "last_hidden_state")
    got = next(outputs[field] for field in fields if field in outputs).numpy()
    gaps, mask = np.abs(got - wanted), inputs.get("attention_mask")
    real = gaps if mask is None or gaps.shape[:2] != tuple(mask.shape) else gaps[mask.numpy() > 0]
    return float(real.max())


def main() -> None:
    """Prints a row a checkpoint; exits non-zero where one differs."""
    torch.set_num_threads(1)
    worst = 0.0
    for name in NAMES:
        with tempfile.TemporaryDirectory() as parent:
            gap = difference(name, Path(parent) / name)
        worst = max(worst, gap)
        print(f"{'equal ' if gap <= TOLERANCE else 'DIFFERS'} {name} exported: {gap:.1e}")
    raise SystemExit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
