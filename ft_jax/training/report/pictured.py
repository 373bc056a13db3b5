"""What a run of several modalities keeps for its report, and how the report shows it."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np

from ft_jax.outside import escaped, one_line, read_json

FILE = "pictured.json"
MOST_PIXELS = 96
"""Of a picture's longer side; larger ones are thinned out."""
SIDE = 320


def png_of(image: np.ndarray) -> str:
    """An image ``[height, width, 1 or 3]`` in [0, 1] as the address of a PNG that holds it.

    Example:
      >>> png_of(np.zeros((4, 4, 1)))[:22]
      'data:image/png;base64,'
    """
    image = np.asarray(image, np.float32)
    step = -(-max(image.shape[:2]) // MOST_PIXELS)
    image = image[::step, ::step]
    pixels = np.clip(np.round(image * 255), 0, 255).astype(np.uint8)
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(whole).decode()


def pictured_section(folder: Path) -> list[dict[str, Any]]:
    """What the template shows of each evaluation set; nothing of a run of one modality.

    Raises:
      ValueError: a file that does not hold it.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    try:
        return [_set(name, told) for name, told in read_json(path)["sets"].items()]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold what a run pictured ({one_line(error)}); remove it") from None


def _set(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    ks = [key for key in (told.get("recalls") or [{}])[0] if key != "way"]
    recalls = [(row["way"], [f"{row[k]:.3f}" for k in ks]) for row in told.get("recalls", ())]
    queries = [
        {"way": one["way"], "asked": _shown(one["asked"]), "answers": [_shown(found) for found in one["answers"]]}
        for one in told.get("queries", ())
    ]
    ways = [(way, [one for one in queries if one["way"] == way]) for way, _ in recalls]
    said = told.get("captions") or {}
    return {
        "name": escaped(name),
        "among": told.get("among"),
        "ks": ks,
        "recalls": recalls,
        "ways": ways,
        "points": _drawn(told),
        "without": _without(told.get("without") or {}),
        "captions": [{**_shown(row), "wanted": escaped(row["wanted"])} for row in said.get("rows", ())],
        "caption_scores": [(name, f"{float(value):.3f}") for name, value in said.get("scores", {}).items()],
        "caption_count": said.get("of"),
        "looked": [
            {"image": _address(row["image"]), "svg": markupsafe.Markup(draw_patches(row["map"]))}
            for row in told.get("looked", ())
        ],
    }


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": _address(one["image"]) if "image" in one else "",
        "text": escaped(one.get("text", one.get("written", ""))),
        "right": one.get("right"),
        "similarity": f"{one['similarity']:.2f}" if "similarity" in one else "",
    }


def _address(text: str) -> str:
    if not text.startswith("data:image/png;base64,") or '"' in text:
        raise ValueError("a picture is none")
    return text


def _without(told: Mapping[str, Any]) -> dict[str, Any] | None:
    if not told.get("rows"):
        return None
    cells = ("removed", "corrupted", "alone")

    def value(number):
        return "–" if number is None else f"{float(number):.3f}"

    rows = [(escaped(row["modality"]), [value(row[cell]) for cell in cells]) for row in told["rows"]]
    return {"metric": escaped(told["metric"]), "all": value(told["all"]), "cells": cells, "rows": rows}


SHAPES = (
    lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"',
    lambda x, y: f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"',
    lambda x, y: f'<path d="M{x:.1f} {y - 4:.1f}l4 7h-8z"',
)
"""Of the points of each modality."""


def _drawn(told: Mapping[str, Any]) -> dict[str, Any] | None:
    if not told.get("points"):
        return None
    groups = [escaped(name) for name in told.get("groups", ())]
    names = list(dict.fromkeys(groups))
    return {
        "svg": markupsafe.Markup(draw_points(told["points"], groups)),
        "modalities": [(name, markupsafe.Markup(_mark(place))) for place, name in enumerate(told["points"])],
        "groups": [(name, place % 6) for place, name in enumerate(names)],
    }


def _mark(place: int) -> str:
    shape = SHAPES[place % len(SHAPES)](6, 6)
    return f'<svg viewBox="0 0 12 12" width="12" aria-hidden="true">{shape} fill="var(--soft)"/></svg>'


def draw_points(points: Mapping[str, Sequence[Sequence[float]]], groups: Sequence[str] = ()) -> str:
    """An SVG of points in two dimensions: a shape a modality, a colour a group; pairs without groups are joined.

    Example:
      >>> draw_points({"image": [[0, 0], [1, 1]], "text": [[0, 1], [1, 0]]}).count("<circle")
      2
    """
    every = np.array([xy for one in points.values() for xy in one], float)
    low, high = every.min(axis=0), every.max(axis=0)
    room = np.where(high > low, high - low, 1.0)

    def place(xy):
        x, y = (np.asarray(xy, float) - low) / room
        return 10 + x * (SIDE - 20), SIDE - 10 - y * (SIDE - 20)

    names = list(dict.fromkeys(groups))
    drawn = []
    if len(points) == 2:
        for one, other in zip(*points.values(), strict=False):
            (x, y), (u, v) = place(one), place(other)
            drawn.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}" stroke="var(--line)"/>')
    for kind, (modality, rows) in enumerate(points.items()):
        for row, xy in enumerate(rows):
            group = names.index(groups[row]) if row < len(groups) else kind
            label = f"{modality} {row}" + (f", {groups[row]}" if row < len(groups) else "")
            shape = SHAPES[kind % len(SHAPES)](*place(xy))
            drawn.append(
                f'{shape} fill="var(--s{group % 6})" fill-opacity="0.8"><title>{markupsafe.escape(label)}</title>'
            )
            drawn.append({"c": "</circle>", "r": "</rect>", "p": "</path>"}[shape[1]])
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" role="img" aria-label="Embeddings of '
        f'{", ".join(map(str, map(markupsafe.escape, points)))} in two dimensions" '
        f'style="max-width:100%;border:1px solid var(--line)">{"".join(drawn)}</svg>'
    )


def draw_patches(rows: Sequence[Sequence[float]]) -> str:
    """An SVG to lay over an image: a square a patch, the brighter the more is looked at it.

    Example:
      >>> draw_patches([[0.0, 1.0]]).count("<rect")
      2
    """
    top = max(max(row) for row in rows) or 1.0
    squares = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="#ffb000" fill-opacity="{0.75 * value / top:.2f}">'
        f"<title>{value:.3f}</title></rect>"
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
    )
    return (
        f'<svg viewBox="0 0 {len(rows[0])} {len(rows)}" preserveAspectRatio="none" role="img" '
        f'aria-label="Attention over {len(rows)} by {len(rows[0])} patches" class="over">{squares}</svg>'
    )
