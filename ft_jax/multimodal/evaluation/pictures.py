"""Pictures: what was retrieved, and where embeddings lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def retrieval_picture(
    path: str | Path,
    images: np.ndarray,
    captions: Sequence[str],
    similarities: np.ndarray,
    rows: int = 6,
    nearest: int = 4,
) -> Path:
    """Writes a grid: to each of the first captions its nearest images, the right one framed.

    Args:
      path: of the picture, such as ``retrieval.png``.
      images: ``[images, height, width(, channels)]`` in [0, 1].
      captions: that of image ``i`` at ``i``.
      similarities: ``[images, texts]``.
      rows, nearest: captions and images of each that are shown.

    Raises:
      ValueError: not as many captions as images.
    """
    images = np.asarray(images)
    if not len(images) == len(captions) == len(similarities):
        raise ValueError(
            f"there are {len(images)} images, {len(captions)} captions and similarities of {len(similarities)}; "
            "give as many of each"
        )
    plot = _plot()
    rows, nearest = min(rows, len(captions)), min(nearest, len(images))
    figure, axes = plot.subplots(rows, nearest, figsize=(1.5 * nearest + 1, 1.6 * rows), squeeze=False)
    for row in range(rows):
        best = np.argsort(-np.asarray(similarities)[:, row], kind="stable")[:nearest]
        for place, image in enumerate(best):
            axis = axes[row, place]
            axis.imshow(images[image].squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([]), axis.set_yticks([])
            right = image == row
            for side in axis.spines.values():
                side.set_color("tab:green" if right else "lightgrey")
                side.set_linewidth(3 if right else 1)
            if not place:
                axis.set_title(captions[row], fontsize=8, loc="left")
    return _saved(figure, path, plot)


def in_two_dimensions(embeddings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embeddings of several modalities ``[examples, 2]`` in the two directions of largest variance of all of them.

    Args:
      embeddings: by modality, ``[examples, width]``, of one space.

    Raises:
      ValueError: none, fewer than two examples, or widths that differ.

    Example:
      >>> flat = in_two_dimensions({"image": np.eye(3), "text": np.eye(3) + 0.1})
      >>> flat["text"].shape
      (3, 2)
    """
    arrays = {name: np.asarray(one, np.float64) for name, one in embeddings.items()}
    widths = {one.shape[-1] for one in arrays.values()}
    if len(widths) != 1 or min(len(one) for one in arrays.values()) < 2:
        raise ValueError(f"embeddings have the widths {sorted(widths)}; give two examples or more of one width")
    every = np.concatenate(list(arrays.values()))
    centre = every.mean(axis=0)
    directions = np.linalg.svd(every - centre, full_matrices=False)[2][:2]
    flat = {name: (one - centre) @ directions.T for name, one in arrays.items()}
    return {name: np.pad(one, [(0, 0), (0, 2 - one.shape[1])]) for name, one in flat.items()}


def embedding_picture(path: str | Path, embeddings: dict[str, np.ndarray], labels: Sequence[str] | None = None) -> Path:
    """Writes the embeddings of several modalities in their two directions of largest variance.

    Args:
      path: of the picture.
      embeddings: by modality, ``[examples, width]``, of one space.
      labels: of the examples, which give colours; modalities have markers.

    Raises:
      ValueError: none, fewer than two examples, or widths that differ.
    """
    arrays = in_two_dimensions(embeddings)
    plot = _plot()
    figure, axis = plot.subplots(figsize=(6, 5))
    known = sorted(set(labels)) if labels is not None else [""]
    for marker, (name, flat) in zip("os^Dv*", arrays.items(), strict=False):
        for place, label in enumerate(known):
            mine = np.ones(len(flat), bool) if labels is None else np.asarray(labels) == label
            shown = f"{name} {label}".strip()
            axis.scatter(*flat[mine].T, marker=marker, s=18, color=plot.get_cmap("tab10")(place % 10), label=shown)
    axis.legend(fontsize=6, ncols=2)
    axis.set_xlabel("first direction"), axis.set_ylabel("second direction")
    return _saved(figure, path, plot)


def caption_picture(
    path: str | Path, images: np.ndarray, written: Sequence[str], wanted: Sequence[str], columns: int = 2
) -> Path:
    """Writes images with what was written to each, green where it is right, else red with what was wanted below it.

    Args:
      path: of the picture.
      images: ``[images, height, width(, channels)]`` in [0, 1].
      written, wanted: a caption an image.
      columns: images beside each other.

    Raises:
      ValueError: none, or not as many captions as images.
    """
    images = np.asarray(images)
    if not 0 < len(images) == len(written) == len(wanted):
        raise ValueError(
            f"there are {len(images)} images, {len(written)} captions and {len(wanted)} wanted; give as many of each"
        )
    plot = _plot()
    rows = -(-len(images) // columns)
    figure, axes = plot.subplots(rows, columns, figsize=(3.4 * columns, 1.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, said, right in zip(axes.flat, images, written, wanted, strict=False):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
        same = said == right
        told = said if same else f"{said}\n(it is {right})"
        axis.set_title(told, fontsize=8, color="tab:green" if same else "tab:red")
    return _saved(figure, path, plot)


def _plot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _saved(figure, path, plot) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plot.close(figure)
    return path
