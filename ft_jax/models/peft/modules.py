"""What peft calls the modules of a model, and the leaves that were trained beside an adapter."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.params import Params, matches, nearest
from ft_jax.core.weights import Weight
from ft_jax.models import heads
from ft_jax.models.architectures import Tensor, architecture_for, flat
from ft_jax.models.architectures.naming import Part
from ft_jax.models.networks.decoder import DecoderConfig
from ft_jax.models.networks.encoder import EncoderConfig
from ft_jax.models.networks.modern_encoder import ModernEncoderConfig
from ft_jax.models.networks.t5 import T5Config

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
      parts: which part of its module a projection is, where several are one there.
      parameters: of stacks of experts, the parameter's name, such as ``"model.layers.0.mlp.experts.down_proj"``, see
        `ft_jax.models.peft.experts`.
      copied: the tensor that is tied to the token table, such as ``"lm_head.weight"``; None where none is.
    """

    names: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    task: str | None
    prefix: str = PREFIX
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copied: str | None = None

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

    def around(self, paths: Iterable[str], alone: tuple[str, ...] = ()) -> list[str]:
        """The modules of whole leaves."""
        return sorted({self.module(path, alone) for path in paths})

    def module(self, path: str, alone: tuple[str, ...] = ()) -> str:
        """The module that is trained with a leaf: its own; of a head the whole, as peft takes them, but for `alone`."""
        name = self.tensors[path].name
        whole = path.startswith("head/") and not matches(path, alone)
        return name.partition(".")[0] if whole else _module(name)

    def turned(self, place: str) -> bool:
        """Whether a projection's kernel is stored as it is here, ``[inputs, outputs]``, as GPT-2's are."""
        tensor = self.tensors.get(place)
        return place.endswith("/kernel") and type(tensor) is Tensor and not tensor.transposed

    def layer(self, index: int) -> str:
        """The module of a whole layer, such as ``"model.layers.0"``."""
        inside = next(name for place, name in self.names.items() if place.startswith(f"layers/{index}/"))
        return inside[: inside.index(f".{index}.") + len(f".{index}")]

    def targets(self, places: Iterable[str]) -> list[str]:
        """``target_modules`` for projections: their last names where these say exactly them, else their full ones."""
        chosen = {self.names[place] for place in places if place not in self.parameters}
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

    def changed(
        self, original: Params, params: Params, holders: Mapping[str, Any], alone: tuple[str, ...] = ()
    ) -> dict[str, jax.Array]:
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
        modules = {self.module(path, alone) for path in moved if path not in biases}
        rest = {path for path in self.tensors if self.module(path, alone) in modules and path in plain}
        return {path: plain[path] for path in sorted(biases | rest)}

    def trained(self, whole: Iterable[str], holders: Mapping[str, Any], peft_type: str) -> dict[str, Any]:
        """The fields of adapter_config.json about leaves trained beside the adapter.

        Raises:
          ValueError: biases of adapted projections, for a kind that has none.
        """
        biases = [path for path in whole if _kernel_of(path) in holders]
        modules = self.around(path for path in whole if path not in biases)
        fields: dict[str, Any] = {"modules_to_save": modules or None}
        if biases and peft_type not in BIASES:
            raise ValueError(f"{biases[0]} was trained beside the adapter, and peft's {peft_type} keeps no biases")
        if peft_type in BIASES:
            fields["bias"] = BIASES[peft_type] if biases else "none"
        return fields


def modules_of(model, stored: Iterable[str], prefix: str = PREFIX) -> Modules:
    """The names that a file with tensors `stored` has for the modules of `model`; without any, those to write.

    A base is saved under several names: a BERT with a classifier calls its modules ``bert.encoder…`` and one
    without ``encoder…``, and transformers 5 has other names in memory than in files. What the file's tensors begin with
    decides; written are those that transformers 5 has in memory, which is where peft looks.

    Raises:
      ValueError: where the configuration has no published format, or no module of the file is in the model.
    """
    architecture = architecture_for(model.config)
    table = architecture.tensors(model.config)
    head = heads.describe(model.apply, flat(model.params))
    if head is not None:
        table = {path: tensor for path, tensor in table.items() if not path.startswith("head/")}
    own = architecture.prefix
    whole = own and not any(tensor.name.startswith(own) for tensor in table.values())
    prefixed = [lambda name: name if name.startswith("lm_head.") else own + name] if whole else []
    bare = [lambda name: name.removeprefix("model.")]
    # A decoder is saved as a language model, which is around a network as a classifier is.
    around = head is not None or isinstance(model.config, DecoderConfig)
    ways = [*prefixed, lambda name: name, *bare] if around else [lambda name: name, *prefixed, *bare]
    tables = [architecture.modules(table), table]
    tables = tables[:1] if tables[0] == tables[1] else tables
    named = [
        {path: dataclasses.replace(tensor, name=way(tensor.name)) for path, tensor in one.items()}
        for way in ways
        for one in tables
    ]
    told = {} if head is None else _told(head, model.config)
    starts = {start for key in stored for start in _ancestors(key.removeprefix(prefix))}
    # Of a head alone a file does not say how the rest is called.
    starts -= {start for tensor in told.values() for start in _ancestors(tensor.name)}

    def fit(tensors):
        return len(starts & {start for tensor in tensors.values() for start in _ancestors(tensor.name)})

    tensors = max(named, key=fit)
    if starts and not fit(tensors):
        raise ValueError(
            f"it is an adapter of another base: the module {sorted(starts)[0]} is not there, the nearest is "
            f"{nearest(sorted(starts)[0], map(_module, (tensor.name for tensor in tensors.values())), 1)}"
        )
    tensors |= told
    names, parts = {}, {}
    # The projections of torch's own attention module are no modules that an adapter can stand on.
    closed = tuple(_module(one.name) for one in tensors.values() if one.name.endswith(".in_proj_weight"))
    for path, tensor in tensors.items():
        if (path.endswith("/kernel") or path in TABLES) and not tensor.more and not tensor.name.startswith(closed):
            names[path] = _module(tensor.name)
            if tensor.part is not None:
                parts[path] = tensor.part
    copied = _copied(architecture, model, tensors)
    return Modules(names, tensors, _task(model.config, head), prefix, parts, copied=copied)


TABLES = ("embeddings/tokens", "language/embeddings/tokens")
"""The tables of tokens, which peft knows as modules too."""


def _told(head, config) -> dict[str, Tensor]:
    """The tensors of a head; a decoder's that transformers has no class for goes by the name of those that it has."""
    told = heads.tensors(head, config)
    if not isinstance(config, DecoderConfig) or heads.class_of(head, config) is not None:
        return told
    return {
        path: dataclasses.replace(one, name=one.name.replace("classifier", "score", 1)) for path, one in told.items()
    }


def _task(config, head) -> str | None:
    """Peft's name for what a model is used for; None for what it has no class for."""
    if head is not None:
        return {"token_classification": "TOKEN_CLS", "embedding": "FEATURE_EXTRACTION"}.get(head["kind"], "SEQ_CLS")
    if isinstance(config, DecoderConfig):
        return "CAUSAL_LM"
    if isinstance(config, T5Config):
        return "SEQ_2_SEQ_LM"
    return "FEATURE_EXTRACTION" if isinstance(config, EncoderConfig | ModernEncoderConfig) else None


def _copied(architecture, model, tensors) -> str | None:
    """The module that shares the token table, by its name in memory; None where nothing does."""
    if model.apply.kind is not None:
        return None
    table = next((path for path in TABLES if path in tensors), None)
    ending = next((name for name, path in architecture.copies.items() if path == table), None)
    encoder = isinstance(model.config, EncoderConfig | ModernEncoderConfig)
    if ending is None or (encoder and not model.config.prediction):
        return None
    copied = architecture.modules({table: Tensor(_FULL.get(ending, ending))})[table].name
    return None if copied in {tensor.name for tensor in tensors.values()} else copied


_FULL = {"predictions.decoder.weight": "cls.predictions.decoder.weight"}
"""Names of copies that are told by their endings."""


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _ancestors(name: str) -> set[str]:
    """The modules around a tensor, those of at least two names: of ``"a.b.c.weight"``, ``{"a.b.c", "a.b"}``."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(2, len(parts))}


def _kernel_of(path: str) -> str:
    """The projection's kernel that a bias stands beside; of another path, nothing."""
    return f"{path.removesuffix('/bias')}/kernel" if path.endswith("/bias") else ""
