"""What peft calls the modules of a model, and the leaves that were trained beside an adapter."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.params import Params, nearest
from ft_jax.core.weights import Weight
from ft_jax.models.architectures import Tensor, architecture_for, flat
from ft_jax.models.networks.decoder import DecoderConfig

PREFIX = "base_model.model."

BIASES = {"LORA": "lora_only", "VERA": "vera_only", "OFT": "oft_only", "BOFT": "boft_only"}
"""The value of ``bias`` by which a kind of peft trains the biases of its own modules."""


@dataclasses.dataclass(frozen=True)
class Modules:
    """The names of one model's modules and tensors in peft's files.

    Attributes:
      names: module by the path of a projection's kernel, such as ``"model.layers.0.self_attn.q_proj"``.
      tensors: where each parameter is, names without `prefix`.
      task: peft's name for what the model is used for.
      prefix: of every module in a file.
    """

    names: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    task: str
    prefix: str = PREFIX

    def leaf(self, key: str, wrapper: str | None = None) -> str | None:
        """The path of the parameter that a file's tensor is as a whole, or None where it is an adapter's."""
        name = key.removeprefix(self.prefix)
        own = () if wrapper is None else (f".{wrapper}",)
        for around in (".base_layer", ".modules_to_save.default", ".modules_to_save", *own):
            name = name.replace(f"{around}.", ".")
        if name.startswith("score.") and "head/kernel" in self.tensors:
            name = name.replace("score", self.tensors["head/kernel"].name.removesuffix(".weight"), 1)
        return next((path for path, tensor in self.tensors.items() if tensor.name == name), None)

    def stored(self, path: str, holders: Mapping[str, Any], wrapper: str | None = None) -> str:
        """The file's name for a whole leaf; peft keeps the bias of an adapted projection one level deeper."""
        name = self.tensors[path].name
        if wrapper is not None:
            module, _, field = name.rpartition(".")
            name = f"{module}.{wrapper}.{field}"
        if _kernel_of(path) in holders:
            name = name.removesuffix(".bias") + ".base_layer.bias"
        return f"{self.prefix}{name}"

    def around(self, paths: Iterable[str]) -> list[str]:
        """The modules of whole leaves."""
        return sorted({_module(self.tensors[path].name) for path in paths})

    def layer(self, index: int) -> str:
        """The module of a whole layer, such as ``"model.layers.0"``."""
        inside = next(name for place, name in self.names.items() if place.startswith(f"layers/{index}/"))
        return inside[: inside.index(f".{index}.") + len(f".{index}")]

    def targets(self, places: Iterable[str]) -> list[str]:
        """``target_modules`` for projections: their last names where these say exactly them, else their full ones."""
        chosen = {self.names[place] for place in places}
        short = {name.rpartition(".")[2] for name in chosen}
        meant = {name for name in self.names.values() if name.rpartition(".")[2] in short}
        # A checkpoint's pooler, which the model here may be without, is called "dense" as well.
        return sorted(chosen if meant != chosen or "dense" in short else short)

    def check(self, holders: Mapping[str, Any]) -> None:
        """Refuses operators on weights that are no module of their own in the published checkpoint.

        Raises:
          ValueError: on the first such weight.
        """
        for place, holder in holders.items():
            if isinstance(holder, Weight) and place not in self.names:
                raise ValueError(
                    f"{place} is no projection of its own in the published checkpoint, so peft has no name for its "
                    f"adapter; the nearest that is one is {nearest(place, self.names, 1)}"
                )

    def changed(self, original: Params, params: Params, holders: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The plain leaves of `params` that are not those of `original`, and their modules' other leaves.

        Raises:
          ValueError: where `original` holds shapes alone, or such a leaf has no place in the published checkpoint.
        """
        before, after = flat(original), flat(params)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in before.values()):
            raise ValueError("the model has shapes in place of parameters, so what changed is unknown; load it whole")
        plain = {path: leaf for path, leaf in after.items() if isinstance(leaf, jax.Array) and path in before}
        moved = [path for path, leaf in plain.items() if not jnp.array_equal(leaf, before[path])]
        unknown = [path for path in moved if path not in self.tensors or self.tensors[path].part is not None]
        if unknown:
            raise ValueError(
                f"{unknown[0]} was trained beside the adapter and has no tensor of its own in peft's files"
            )
        biases = {path for path in moved if _kernel_of(path) in holders}
        modules = {_module(self.tensors[path].name) for path in moved if path not in biases}
        rest = {path for path, tensor in self.tensors.items() if _module(tensor.name) in modules and path in plain}
        return {path: plain[path] for path in sorted(biases | rest)}

    def trained(self, whole: Iterable[str], holders: Mapping[str, Any], peft_type: str) -> dict[str, Any]:
        """The fields of adapter_config.json about leaves trained beside the adapter.

        Raises:
          ValueError: biases of adapted projections, for a kind that has none.
        """
        biases = [path for path in whole if _kernel_of(path) in holders]
        modules = sorted({_module(self.tensors[path].name) for path in whole if path not in biases})
        fields: dict[str, Any] = {"modules_to_save": modules or None}
        if biases and peft_type not in BIASES:
            raise ValueError(f"{biases[0]} was trained beside the adapter, and peft's {peft_type} keeps no biases")
        if peft_type in BIASES:
            fields["bias"] = BIASES[peft_type] if biases else "none"
        return fields


def modules_of(model, stored: Iterable[str]) -> Modules:
    """The names that a file with tensors `stored` has for the modules of `model`; without any, those to write.

    A base is saved under several names: a BERT with a classifier calls its modules ``bert.encoder…`` and one
    without ``encoder…``; what the file's tensors begin with decides.

    Raises:
      ValueError: where the configuration has no published format, or no module of the file is in the model.
    """
    architecture = architecture_for(model.config)
    table = architecture.tensors(model.config)
    pooled = "head" in model.params and "head/kernel" not in table
    prefixed = [lambda name: architecture.prefix + name] if architecture.prefix else []
    bare = [lambda name: name.removeprefix("model.")]
    ways = [*prefixed, lambda name: name, *bare] if pooled else [lambda name: name, *prefixed, *bare]
    starts = {start for key in stored for start in _ancestors(key.removeprefix(PREFIX))}

    def fit(way):
        return len(starts & {start for tensor in table.values() for start in _ancestors(way(tensor.name))})

    way = max(ways, key=fit)
    if starts and not fit(way):
        raise ValueError(
            f"it is an adapter of another base: the module {sorted(starts)[0]} is not there, the nearest is "
            f"{nearest(sorted(starts)[0], map(_module, (way(tensor.name) for tensor in table.values())), 1)}"
        )
    tensors = {path: dataclasses.replace(tensor, name=way(tensor.name)) for path, tensor in table.items()}
    decoder = isinstance(model.config, DecoderConfig)
    if pooled:
        head = "score" if decoder else "classifier"
        tensors["head/kernel"] = Tensor(f"{head}.weight", transposed=True)
        if "bias" in model.params["head"]:
            tensors["head/bias"] = Tensor(f"{head}.bias")
    names = {
        path: _module(tensor.name)
        for path, tensor in tensors.items()
        if path.endswith("/kernel") and tensor.part is None and not tensor.more
    }
    task = "SEQ_CLS" if pooled else "CAUSAL_LM" if decoder else "FEATURE_EXTRACTION"
    return Modules(names, tensors, task)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _ancestors(name: str) -> set[str]:
    """The modules around a tensor, those of at least two names: of ``"a.b.c.weight"``, ``{"a.b.c", "a.b"}``."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(2, len(parts))}


def _kernel_of(path: str) -> str:
    """The projection's kernel that a bias stands beside; of another path, nothing."""
    return f"{path.removesuffix('/bias')}/kernel" if path.endswith("/bias") else ""
