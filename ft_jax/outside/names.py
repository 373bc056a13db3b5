"""Names that become files, lines of a log and rows of a report: what they must not hold."""

import unicodedata
from collections.abc import Iterable

LONGEST = 255
"""Bytes of one part of a path that file systems take."""

DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of writing, by which a name can be made to look like another."""


def trouble_with(name: str) -> str | None:
    """What is wrong with a name, as the end of a sentence, or None.

    Example:
      >>> trouble_with("a/b c.txt"), trouble_with("a\\nb"), trouble_with("abc\u202etxt.exe")
      (None, "has the control character '\\\\n'", "has the direction mark '\\\\u202e'")
    """
    for character in name:
        if character in DIRECTIONS:
            return f"has the direction mark {character!a}"
        if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
            return f"has the control character {character!a}"
        if unicodedata.category(character) == "Cs":
            return f"has {character!a}, which is no character"
    for part in name.split("/"):
        if len(part.encode()) > LONGEST:
            return f"has a part of {len(part.encode())} bytes, of which file systems take {LONGEST}"
    return None


def check_name(what: str, name: object) -> None:
    """Raises ValueError on a name that is none, or holds what `trouble_with` finds; ``what`` says of what it is.

    For names that people give: of experiments, tasks, evaluation sets, metrics, methods, and of folders to write.

    Example:
      >>> check_name("task", "digits"), check_name("evaluation set", "Größe 大きい/held out")
      (None, None)
      >>> check_name("task", "digits\u202e")
      Traceback (most recent call last):
      ValueError: task 'digits\\u202e' has the direction mark '\\u202e'; give it another name
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what} is called {printable(name)}; give it a name in words")
    wrong = trouble_with(name)
    if wrong:
        raise ValueError(f"{what} {printable(name)} {wrong}; give it another name")


def escaped(text: str) -> str:
    """Text in which whatever a terminal or a page would act upon, or show as something else, is written out.

    Example:
      >>> print(escaped("a\\x1b[31mb\\u202ec"))
      a\\x1b[31mb\\u202ec
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cut(text: str, most: int) -> str:
    """Text of no more than so many characters, with an ellipsis where there was more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(value: object, most: int = 80) -> str:
    """A value from outside as a sentence may hold it: on one line, short, in characters that are what they seem.

    Example:
      >>> printable("a\\x1b[31mb"), printable("x" * 100, 8), printable([1, 2, 3], 5)
      ("'a\\\\x1b[31mb'", "'xxxxx…'", '[1, …')
    """
    quote = isinstance(value, str)
    try:
        # Of a long text no more than the beginning is written out at all.
        shown = repr(value[: most + 1] if quote else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        shown = f"<{type(value).__name__}>"
    over = len(shown) > most or (quote and len(value) > most)
    return escaped(f"{shown[: most - 1 - quote]}…{shown[-1] if quote else ''}" if over else shown)


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names from outside as a sentence may list them; ``"none"`` of none.

    Example:
      >>> listed(["text", "labels"]), listed(map(str, range(99)), 3), listed([])
      ('text, labels', '0, 1, 2 and 96 more', 'none')
    """
    names = [cut(escaped(str(name)), 60) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
