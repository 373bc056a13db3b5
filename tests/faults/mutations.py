"""What may be wrong with a file: bits and bytes of any, and values of JSON."""

import json
import random
import struct

NONSENSE = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        2**31,
        2**63,
        -(2**70),
        1e308,
        10**400,
        float("nan"),
        float("inf"),
        "",
        "8",
        "\u202e",
        "a\nb",
    ),
    *([], {}, [1, None], {"a": 1}, [[]], "x" * 5000, list(range(300)), [{}]),
)

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**40)


def harmed(content: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three things wrong."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(BYTES)(bytearray(content), draw)
    return bytes(content)


def _flip(content, draw):
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def _cut(content, draw):
    return content[: draw.randrange(len(content) + 1)]


def _early(content, draw):
    """Harm near the start, where formats say what follows."""
    if content:
        content[draw.randrange(min(len(content), 200))] = draw.randrange(256)
    return content


def _number(content, draw):
    """A number of 2, 4 or 8 bytes replaced by one at the edge of what it can be."""
    size = draw.choice((2, 4, 8))
    if len(content) >= size:
        place = draw.randrange(len(content) - size + 1)
        content[place : place + size] = struct.pack("<Q", draw.choice(NUMBERS))[:size]
    return content


def _insert(content, draw):
    place = draw.randrange(len(content) + 1)
    more = draw.choice((b"\0", b"\xff\xfe", b"\n", b'"', b"[" * 3000, b"{", b"\x1b[2J", draw.randbytes(9), b"9" * 5000))
    return content[:place] + more + content[place:]


def _drop(content, draw):
    place = draw.randrange(len(content) + 1)
    return content[:place] + content[place + draw.randrange(1, 40) :]


def _again(content, draw):
    place = draw.randrange(len(content) + 1)
    piece = content[place : place + draw.randrange(1, 200)]
    return content[:place] + piece + content[place:]


def _zeros(content, draw):
    place = draw.randrange(len(content) + 1)
    size = len(content[place : place + draw.randrange(1, 100)])
    return content[:place] + bytes(size) + content[place + size :]


BYTES = (_flip, _flip, _flip, _cut, _early, _number, _insert, _drop, _again, _zeros)


def harmed_json(content: bytes, draw: random.Random) -> bytes:
    """JSON with a value replaced, a field taken away, said twice or nested, or its text harmed as any file's."""
    way = draw.randrange(10)
    if way == 0:
        return harmed(content, draw)
    tree = json.loads(content)
    holder, key = draw.choice(list(_places(tree)))
    if way == 1 and isinstance(holder, dict):
        del holder[key]
        return json.dumps(tree).encode()
    if way == 2 and isinstance(tree, dict):
        text = json.dumps(tree)
        return f'{{"{draw.choice(list(tree))}": 1, {text[1:]}'.encode()
    if way == 3:
        mark = json.dumps("MARK")
        holder[key] = "MARK"
        deep = draw.choice(("[" * 4000 + "]" * 4000, "9" * 5000, '{"a":' * 4000 + "1" + "}" * 4000, "-1e999"))
        return json.dumps(tree).replace(mark, deep).encode()
    holder[key] = draw.choice(NONSENSE)
    return json.dumps(tree).encode()


def _places(tree):
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, dict) or (isinstance(value, list) and value):
            yield from _places(value)
