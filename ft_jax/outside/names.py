"""Names that become files, lines of a log and rows of a report: what they must not hold."""

import unicodedata

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


def printable(text: object, most: int = 80) -> str:
    """Text from outside as a message may show it: on one line, short, and in characters that are what they seem.

    Example:
      >>> printable("a\\x1b[31mb"), printable("x" * 100, 8)
      ("'a\\\\x1b[31mb'", "'xxxxxx…'")
    """
    shown = ascii(text) if isinstance(text, str) and trouble_with(text) else repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…{shown[-1] if isinstance(text, str) else ''}"
