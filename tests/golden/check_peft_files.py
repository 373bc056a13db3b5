"""Has peft load what is saved here: ``python check_peft_files.py FOLDER``, with the files of ``record_peft_files.py``.

Every recorded adapter is loaded, saved again and given to ``peft.PeftModel.from_pretrained``, whose outputs must be the
recorded ones. Needs torch, transformers and peft beside ft_jax.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from peft_reference import CONFIGS, load
from record_peft import llama
from record_peft_files import KINDS, LATER, base_of

from ft_jax.models import Model, load_adapter, save_adapter

TOLERANCE = 5e-5


def outputs_of(adapter: Path, file) -> np.ndarray:
    """What peft's model gives with the adapter in a folder."""
    ids, mask = (torch.tensor(file[name]) for name in ("input_ids", "attention_mask"))
    model = llama()[1]
    model.load_state_dict(base_of(file))
    with torch.no_grad():
        return PeftModel.from_pretrained(model, str(adapter)).eval()(input_ids=ids, attention_mask=mask).logits.numpy()


def main() -> None:
    """Prints a row a kind; exits non-zero where peft's outputs are others."""
    folder = Path(sys.argv[1])
    file, recorded, reference = np.load(folder / "peft_llama.npz"), np.load(folder / "peft_kinds.npz"), load("llama")
    base = Model(CONFIGS["llama"], reference.params, reference.apply)
    real, worst = file["attention_mask"].astype(bool), 0.0
    with tempfile.TemporaryDirectory() as saved:
        for kind in (*KINDS, *LATER):
            _, params = load_adapter(folder / "peft" / kind, base)
            save_adapter(base, params, Path(saved) / kind)
            expected = recorded[f"{kind}/outputs"][real]
            gap = float(np.abs(outputs_of(Path(saved) / kind, file)[real] - expected).max() / np.abs(expected).max())
            worst = max(worst, gap)
            print(f"{'equal ' if gap <= TOLERANCE else 'DIFFERS'} {kind}, saved here and loaded by peft: {gap:.1e}")
    raise SystemExit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
