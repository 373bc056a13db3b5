"""The recorded peft models as this library's parameters, and their adapters' arrays by parameter path."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ft_jax.core.params import map_with_path
from ft_jax.models import Decoder, DecoderConfig, EncoderConfig
from ft_jax.models.architectures import bert, llama, nested
from ft_jax.models.model import MODULES, Forward

FOLDER = Path(__file__).parent
WIDTHS = {"vocabulary": 24, "width": 16, "layers": 2, "mlp_width": 24, "positions": 16}
CONFIGS = {
    "llama": DecoderConfig(
        **WIDTHS, heads=4, key_value_heads=2, head_width=4, biases=True, output_bias=True, mlp_biases=True, tied=False,
        epsilon=1e-6,
    ),
    "bert": EncoderConfig(**WIDTHS, heads=2, dropout=0.0, attention_dropout=0.0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reference:
    """One recorded model.

    Attributes:
      params: the base's parameters.
      batch: what it was run on.
      probe: the gradients recorded are of ``sum(outputs * probe)``.
      records: everything else, by name.
    """

    apply: Forward
    params: dict
    batch: dict
    probe: np.ndarray
    records: dict
    tensors: dict

    def outputs(self, params):
        """What peft's outputs are compared with: a decoder's logits, an encoder's hidden states."""
        found = self.apply(params, self.batch, None)
        return found.logits if MODULES[type(self.apply.config)] is Decoder else found.hidden

    def adapter(self, kind: str, what: str, tree):
        """`tree` (of trainable parameters) with the recorded ``"weight"`` or ``"gradient"`` in place of every leaf."""

        def recorded(path, leaf):
            weight, _, field = path.removeprefix("model/").rsplit("/", 2)
            prefix = f"{kind}/{what}/{self.tensors[weight].name.removesuffix('.weight')}"
            if kind == "ia3":
                return jnp.asarray(self.records[f"{prefix}.ia3_l"].reshape(-1))
            return jnp.asarray(self.records[f"{prefix}.lora_{field.upper()}"].T)

        return map_with_path(recorded, tree)


def load(model: str) -> Reference:
    """The recorded ``"llama"`` or ``"bert"``."""
    with np.load(FOLDER / f"peft_{model}.npz") as file:
        records = dict(file)
    tensors = {"llama": llama, "bert": bert}[model].tensors(CONFIGS[model])
    base = {path: jnp.asarray(tensor.read(records[f"base/{tensor.name}"])) for path, tensor in tensors.items()}
    batch = {field: jnp.asarray(records[field]) for field in ("input_ids", "attention_mask")}
    return Reference(Forward(CONFIGS[model]), nested(base), batch, records["probe"], records, tensors)
