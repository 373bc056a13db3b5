"""What the kernels of a compiled program compute and move, read from XLA's text of it.

XLA's own analysis of a program for a GPU that is not here is empty, and elsewhere it counts the body of a loop once. A
kernel reads its operands and writes its results once, so that its least seconds are those of its operations or of its
bytes, whichever are more; kernels run one after another, so the sum is a floor of the program as it was compiled,
above the cost model's, which fuses everything.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8, "s16": 2, "u16": 2, "s8": 1, "u8": 1}
"""Of a number, where it is not 4."""

NO_KERNEL = ("parameter", "tuple", "get-tuple-element", "constant", "bitcast", "after-all", "partition-id")

TAKES = ("dynamic-slice", "gather", "slice")
"""Instructions that read no more of an operand than they give."""

LINE = re.compile(r"\s*(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<kind>[\w\-]+)\((?P<rest>.*)")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel as often as it runs.

    Attributes:
      kind: XLA's name of the operation, or what a custom call calls.
      operation: the jax operation that it comes from.
      flops, bytes: of one run; the operations are those of its products.
      runs: how often.
    """

    kind: str
    operation: str
    flops: float
    bytes: float
    runs: int

    def floor(self, rate: float, bandwidth: float) -> float:
        """Least seconds of all runs at `rate` operations and `bandwidth` bytes a second."""
        return self.runs * max(self.flops / rate, self.bytes / bandwidth)


@dataclasses.dataclass(frozen=True)
class Line:
    """An instruction: its type, its kind, and the rest of its line."""

    type: str
    kind: str
    rest: str


def kernels(text: str, unknown: int = 1) -> list[Kernel]:
    """The kernels of a program, from ``jax.stages.Compiled.as_text()``.

    Args:
      text: the program.
      unknown: how often a loop runs that may end at any time, such as one over tokens until all have stopped.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.ones((64, 32))
      >>> program = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: x @ (x.T @ y), x)).lower(x).compile()
      >>> sum(kernel.flops * kernel.runs for kernel in kernels(program.as_text())) == 5 * 2 * 2 * 64 * 32 * 32
      True
    """
    computations: dict[str, dict[str, Line]] = {}
    entry = current = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = head[2]
            computations[current], entry = {}, current if head[1] else entry
        elif found := LINE.match(line):
            computations[current][found["name"]] = Line(found["type"], found["kind"], found["rest"])
    return list(_walk(computations, entry, 1, unknown))


def _walk(computations, name: str, runs: int, unknown: int) -> Iterator[Kernel]:
    lines = computations[name]
    for line in lines.values():
        if line.kind == "while":
            trips = re.search(r'known_trip_count\\?"?:\{\\?"n\\?"?:\\?"?(\d+)', line.rest)
            yield from _walk(computations, _called(line, "body"), runs * (int(trips[1]) if trips else unknown), unknown)
        elif line.kind == "call":
            yield from _walk(computations, _called(line, "to_apply"), runs, unknown)
        elif line.kind not in NO_KERNEL:
            target = re.search(r'custom_call_target="([^"]*)"', line.rest)
            operation = re.search(r'op_name="([^"]*)"', line.rest)
            yield Kernel(
                target[1] if target else line.kind, operation[1] if operation else "", _flops(computations, name, line),
                _moved(computations, lines, line), runs,
            )  # fmt: skip


def _moved(computations, lines: dict[str, Line], line: Line) -> float:
    """Bytes that an instruction reads and writes: of slices and of looked-up rows, not of what they are taken from."""
    given = [lines[one] for one in _operands(line) if one in lines]
    if line.kind in TAKES:
        return 2.0 * _size(line.type)
    if line.kind == "dynamic-update-slice":
        return 2.0 * _size(given[1].type)
    inside = computations.get(_called(line, "calls"))
    if inside is None:
        return float(_size(line.type) + sum(_size(one.type) for one in given))
    places = {name: int(one.rest.partition(")")[0]) for name, one in inside.items() if one.kind == "parameter"}
    moved = 0.0
    for name, place in places.items():
        users = _users(inside, name)
        if users and all(one.kind in (*TAKES, "dynamic-update-slice") and first for one, first in users):
            # A buffer that is written into stays where it is; what is written is counted as the result below.
            moved += sum(_size(one.type) for one, _ in users if one.kind in TAKES)
        elif place < len(given):
            moved += _size(given[place].type)
    return moved + sum(_written(inside, one) for one in _roots(inside))


def _users(inside: dict[str, Line], name: str) -> list[tuple[Line, bool]]:
    """What uses a value of a fused computation, bitcasts seen through, and whether as its first operand."""
    found = []
    for own, line in inside.items():
        operands = _operands(line)
        if name in operands:
            found += _users(inside, own) if line.kind == "bitcast" else [(line, operands[0] == name)]
    return found


def _roots(inside: dict[str, Line]) -> list[Line]:
    """What a fused computation gives: its last instruction, or the parts of the tuple that it is."""
    last = list(inside.values())[-1]
    return [inside[name] for name in _operands(last)] if last.kind == "tuple" else [last]


def _written(inside: dict[str, Line], root: Line) -> float:
    while root.kind == "bitcast":
        root = inside[_operands(root)[0]]
    return _size(inside[_operands(root)[1]].type if root.kind == "dynamic-update-slice" else root.type)


def _called(line: Line, how: str) -> str:
    found = re.search(rf"{how}=%?([\w.\-]+)", line.rest)
    return found[1] if found else ""


def _operands(line: Line) -> list[str]:
    return re.findall(r"%([\w.\-]+)", line.rest.partition(")")[0])


def _dimensions(kind: str) -> list[int]:
    return [int(size) for size in kind[kind.index("[") + 1 : kind.index("]")].split(",") if size]


def _size(kind: str) -> int:
    """Bytes of an array or of a tuple of them."""
    return sum(
        BYTES.get(dtype, 1 if dtype.startswith("f8") else 4) * math.prod(int(n) for n in sizes.split(",") if n)
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", kind)
    )


def _flops(computations, name: str, line: Line) -> float:
    """Operations of the products in an instruction and in what it calls."""
    if line.kind == "dot":
        first = _dimensions(computations[name][_operands(line)[0]].type)
        over = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
        inner = math.prod(first[int(axis)] for axis in over[1].split(",") if axis) if over else 1
        return 2.0 * inner * math.prod(_dimensions(line.type))
    called = _called(line, "calls")
    return sum(_flops(computations, called, one) for one in computations.get(called, {}).values())
