"""Augmentations by name, for a command line and for tokens that are special to the run's tokenizer."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ft_jax.core.params import nearest
from ft_jax.data.augment_images import cutout, random_operations, shift
from ft_jax.data.augment_text import drop_tokens, hide_tokens, replace_tokens, swap_tokens
from ft_jax.outside import printable
from ft_jax.training.composition import Parts

KNOWN: Mapping[str, Callable] = {
    one.__name__: one
    for one in (hide_tokens, drop_tokens, replace_tokens, swap_tokens, shift, cutout, random_operations)
}


@dataclasses.dataclass(frozen=True)
class Altered:
    """An augmentation, an option of `ft_jax.adaptive.augment` and of the semi-supervised methods.

    ``Altered("hide_tokens", {"rate": 0.2})``. Tokens that the run's tokenizer calls special are let be, and what is
    dropped gives way to its padding, unless the options say otherwise.

    Attributes:
      by: a function of `ft_jax.data.augment_text` or `ft_jax.data.augment_images`.
      options: its arguments.

    Example:
      >>> Altered("swap_tokens", {"swaps": 0}).check()
      Traceback (most recent call last):
      ValueError: swap_tokens makes 0 swaps; give it at least 1
    """

    by: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self) -> None:
        """Raises ValueError on an augmentation, or an option, that there isn't."""
        if self.by not in KNOWN:
            raise ValueError(
                f"Altered has no augmentation {printable(self.by)}; the nearest are {nearest(str(self.by), KNOWN)}"
            )
        self._made({})

    def for_run(self, parts: Parts) -> Any:
        """The augmentation, with the special tokens and the padding of the run's model."""
        self.check()
        tokenizer = getattr(parts.model, "tokenizer", None)
        told = {"padding": getattr(parts.model, "pad_token", None)}
        told["special"] = None if tokenizer is None else tuple(tokenizer.all_special_ids)
        return self._made({name: value for name, value in told.items() if value is not None})

    def _made(self, told: Mapping[str, Any]) -> Any:
        make = KNOWN[self.by]
        known = inspect.signature(make).parameters
        try:
            return make(**{name: value for name, value in told.items() if name in known} | dict(self.options))
        except TypeError as error:
            raise ValueError(f"Altered({printable(self.by)}): {error}; its options are {', '.join(known)}") from None
