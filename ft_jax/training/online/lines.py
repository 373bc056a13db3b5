"""A line of a live source as an example."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ft_jax.outside import listed, once, printable

LABELS = ("labels", "label")
INPUTS = ("text", "images")

MOST = 1e30
"""Of a number of an image, either way; what is not finite is beyond it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What a line says.

    Attributes:
      inputs: ``{"text": ...}`` or ``{"images": ...}``.
      label: its class's id; None without one.
      trouble: why its label can't be learned from, in a sentence; None where it can, or there is none.
      known: the line's own ``id``, which its answer repeats; None without one.
    """

    inputs: Mapping[str, Any]
    label: int | None = None
    trouble: str | None = None
    known: Any = None


def record_of(text: str, classes: Sequence[str] = (), count: int | None = None) -> Record:
    """A line as an example.

    Args:
      text: a JSON object with ``text`` or ``images`` and, where it is to be learned from, ``labels`` (or ``label``).
      classes: the names of the classes, in the order of their ids.
      count: how many classes there are, where they have no names.

    Raises:
      ValueError: it is no such object; the sentence has no subject, which the caller knows.

    Example:
      >>> record_of('{"text": "a fine film", "label": "good"}', ("bad", "good")).label
      1
      >>> record_of('{"text": "a fine film", "label": "odd"}', ("bad", "good")).trouble
      "label 'odd' is none of the classes bad, good; nothing is learned from it"
    """
    try:
        found = json.loads(text, object_pairs_hook=once)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, or holds half of a character; write it anew") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({printable(str(error), 80)}); write one object a line") from None
    if not isinstance(found, dict):
        raise ValueError(f"is a {type(found).__name__}; write an object with 'text' or 'images'")
    inputs = {name: found[name] for name in INPUTS if name in found}
    if len(inputs) != 1:
        fields = printable(", ".join(found), 80) if found else "none"
        raise ValueError(f"has the fields {fields}; give it one of 'text' and 'images'")
    if "text" in inputs and not isinstance(inputs["text"], str):
        raise ValueError(f"has {printable(inputs['text'], 40)} for its text; write a string")
    if "images" in inputs and _shape(inputs["images"]) is None:
        raise ValueError("has an image that is not an array of finite numbers; correct it")
    given = [found[name] for name in LABELS if found.get(name) is not None]
    known = found.get("id")
    if len(given) > 1:
        return Record(inputs, None, "it has both 'label' and 'labels'; nothing is learned from it", known)
    if not given:
        return Record(inputs, None, None, known)
    label = _id(given[0], classes, count)
    return Record(inputs, label if isinstance(label, int) else None, None if isinstance(label, int) else label, known)


def _id(label, classes, count) -> int | str:
    """The class's id, or why there is none."""
    if isinstance(label, str):
        if label in classes:
            return list(classes).index(label)
        names = listed(classes) if classes else "none, so labels are their numbers"
        return f"label {printable(label, 40)} is none of the classes {names}; nothing is learned from it"
    most = len(classes) or count
    if isinstance(label, bool) or not isinstance(label, int) or label < 0 or (most is not None and label >= most):
        return f"label {printable(label, 40)} is no class from 0 to {(most or 1) - 1}; nothing is learned from it"
    return label


def _shape(image) -> tuple[int, ...] | None:
    """Of nested lists of finite numbers; None where they are something else, or uneven."""
    if isinstance(image, list):
        shapes = {_shape(one) for one in image}
        inner = shapes.pop() if len(shapes) == 1 else None
        return None if inner is None else (len(image), *inner)
    if isinstance(image, bool) or not isinstance(image, int | float) or not -MOST <= image <= MOST:
        return None
    return ()
