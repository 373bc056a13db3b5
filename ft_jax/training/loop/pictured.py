"""What a run of several modalities has come to, kept in its folder for the report.

Of each evaluation set: recall both ways with some queries and what was found, the embeddings in two dimensions, the
score without each modality, where the image tower looks, and captions written beside their images.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax.core import TrainState
from ft_jax.data.collate import of_one_length
from ft_jax.models import generate_from
from ft_jax.models.networks.vlm import VisionLanguageConfig
from ft_jax.multimodal.evaluation import (
    bleu,
    corrupted,
    exact_match,
    in_two_dimensions,
    patch_attention,
    recalls,
)
from ft_jax.multimodal.presence import PRESENT, present_in
from ft_jax.training.evaluate import fill, score
from ft_jax.training.metrics import CONFUSION
from ft_jax.training.prepare import Plan
from ft_jax.training.report.pictured import FILE, png_of
from ft_jax.training.run_folder import write_json
from ft_jax.training.serving.of_run import seen, standing_round
from ft_jax.training.several import FEATURES, real_rows, right_pairs

MOST, QUERIES, FOUND, POINTS, CAPTIONS, LOOKED = 2000, 4, 5, 300, 64, 4
"""Examples that are compared, queries that are shown, answers of each, points, captions, images looked at; at most."""


def keep_pictured(plan: Plan, state: TrainState, folder: Path) -> None:
    """Writes ``pictured.json`` of a run whose model or methods have several modalities; nothing of any other."""
    model = plan.model
    config = getattr(model, "config", None)
    writes, several = isinstance(config, VisionLanguageConfig), hasattr(config, "encoders")
    compares = any(name.startswith("multimodal.") for name in plan.composition.names) or hasattr(config, "text")
    fused = bool(plan.composition.inwards("lift")) and not plan.program.trials
    if fused or not (writes or several or compares):
        return
    params = seen(plan, plan.distributed.collect(state)).params["model"]
    found = {}
    for name, batches in plan.sets.items():
        first = next(iter(batches), None)
        if first is None:
            continue
        told: dict[str, Any] = {}
        if several and config.classes is not None:
            told |= {"without": scores_without(plan, state, batches, config.modalities)}
        if compares or several:
            told |= compared(plan, state, batches)
        if writes and not len(standing_round(plan)):
            told |= captions(plan, params, batches)
        images = images_of(first)
        if told and images is not None:
            told |= looked(model, params, images)
        if told:
            found[name] = told
    if found and jax.process_index() == 0:
        write_json(folder / FILE, {"sets": found})


def sides(outputs: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The vectors of both sides that a comparison leaves in the states of outputs, or those of the whole example."""
    states = {name: x for name, x in outputs.states.items() if getattr(x, "ndim", 0) == 2}
    named = {name.removesuffix(FEATURES): x for name, x in states.items() if name.endswith(FEATURES)}
    if len(named) > 1:
        return named
    for name, x in states.items():
        other = f"{name.removesuffix('/model')}/other"
        if name.startswith("multimodal.") and name.endswith("/model") and other in states:
            return {"own": x, name.removesuffix("/model"): states[other]}
    return {"example": outputs.hidden} if outputs.hidden.ndim == 2 else {}


def compared(plan: Plan, state: TrainState, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall, queries and points of one evaluation set; nothing where nothing is compared."""
    asked, vectors, shown = plan.asked(sides), [], []
    for batch in batches:
        rows = -(-len(jax.tree.leaves(dict(batch))[0]) // asked.shards) * asked.shards
        made = jax.device_get(asked.measure(state, asked.put_whole(fill(batch, rows))))
        first, kept = (0,) * len(plan.program.trials), real_rows(batch)
        made = {name: np.asarray(x)[first][kept] for name, x in made.items()}
        vectors.append(
            {name: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for name, x in made.items()}
        )
        shown.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[kept], dict(batch)))
        if sum(len(next(iter(one.values()), ())) for one in vectors) >= MOST:
            break
    if not vectors or not vectors[0]:
        return {}
    whole = jax.tree.map(lambda *x: np.concatenate(x)[:MOST], *of_one_length(shown))
    both = {name: np.concatenate([one[name] for one in vectors])[:MOST] for name in vectors[0]}
    parts = {name: part_of(whole, name, plan) for name in both}
    called = named(parts)
    told: dict[str, Any] = {}
    if len(both) > 1:
        told |= retrieval({called[name]: x for name, x in both.items()}, {called[n]: p for n, p in parts.items()}, plan)
    if len(whole_rows(whole)) > 2:
        points = in_two_dimensions({called[name]: x[:POINTS] for name, x in both.items()})
        told["points"] = {name: np.round(x, 4).tolist() for name, x in points.items()}
        told["groups"] = groups(plan, whole)
    return told


def whole_rows(batch: Mapping[str, Any]) -> np.ndarray:
    """The rows of a batch."""
    return jax.tree.leaves(dict(batch))[0]


def part_of(batch: Mapping[str, Any], name: str, plan: Plan) -> Mapping[str, Any]:
    """The fields of a batch that one side was made of."""
    method = next((part for part in plan.composition if part.name == name), None)
    field = name if method is None else method.fields[0]
    return batch[field] if isinstance(batch.get(field), Mapping) else batch


def named(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What sides are called: as they are, and those of a second tower by what they hold."""
    kinds = {"images": "image", "audio": "audio", "signals": "signal", "input_ids": "text"}
    called = {}
    for name, part in parts.items():
        plain = name == "own" or "." in name
        kind = next((word for field, word in kinds.items() if field in part), "example") if plain else name
        called[name] = kind if kind not in called.values() else f"other {kind}"
    return called


def retrieval(both: Mapping[str, np.ndarray], parts: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Recall among all, and the first examples of each side with what is nearest on the other."""
    (one, x), (other, y), *_ = both.items()
    right, near = right_pairs({one: parts[one], other: parts[other]}), x @ y.T
    ks = tuple(k for k in (1, 5, 10) if k <= len(near))
    found = recalls(near, ks, right)
    table = [
        {"way": f"{first} to {second}", **{str(k): found[f"{way}@{k}"] for k in ks}}
        for first, second, way in ((one, other, "image_to_text"), (other, one, "text_to_image"))
    ]
    queries = []
    for first, second, similar in ((one, other, near), (other, one, near.T)):
        for row in range(min(QUERIES, len(near))):
            best = different(parts[second], np.argsort(-similar[row], kind="stable"))[:FOUND]
            answers = [
                {**shown(parts[second], place, plan), "right": bool(right[row, place]),
                 "similarity": round(float(similar[row, place]), 3)}
                for place in best
            ]  # fmt: skip
            queries.append({"way": f"{first} to {second}", "asked": shown(parts[first], row, plan), "answers": answers})
    return {"among": len(near), "recalls": table, "queries": queries}


def different(part: Mapping[str, Any], order: np.ndarray) -> list[int]:
    """Places in their order without those whose text stood before."""
    if "input_ids" not in part or "images" in part:
        return order.tolist()
    rows = {np.asarray(part["input_ids"][place]).tobytes(): int(place) for place in reversed(order.tolist())}
    return sorted(rows.values(), key=order.tolist().index)


def shown(part: Mapping[str, Any], row: int, plan: Plan) -> dict[str, str]:
    """How an example is shown: its picture, its text, or its place."""
    if "images" in part:
        return {"image": png_of(part["images"][row])}
    if "input_ids" in part:
        ids = np.asarray(part["input_ids"][row])
        mask = part.get("attention_mask")
        return {"text": text_of(plan, ids if mask is None else ids[np.asarray(mask[row]) > 0])}
    return {"text": f"example {row}"}


def text_of(plan: Plan, ids: Sequence[int]) -> str:
    """Tokens as a person reads them: by the data's ``text_of``, the model's tokenizer, else as numbers."""
    ids = np.asarray(ids)
    own = getattr(plan.experiment.data, "text_of", None)
    if own is not None:
        return str(own(ids))
    tokenizer = getattr(plan.model, "tokenizer", None)
    if tokenizer is None:
        return " ".join(map(str, ids.tolist()))
    return tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()


def groups(plan: Plan, batch: Mapping[str, Any]) -> list[str]:
    """The class of each point, where the examples have classes; else none."""
    labels = batch.get("labels")
    if labels is None or np.ndim(labels) != 1 or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        return []
    labels = np.asarray(labels)[:POINTS]
    if len(np.unique(labels)) > 10:
        return []
    names = plan.classes
    return [names[label] if 0 <= label < len(names) else str(label) for label in labels.tolist()]


def scores_without(
    plan: Plan, state: TrainState, batches: Iterable[Mapping[str, Any]], modalities: Sequence[str]
) -> dict[str, Any]:
    """The watched metric as the set is, and with each modality removed, corrupted, or alone; by the run's own measure.

    What an example is left with nothing of has no part in the score, so that every number is over those that are.
    """
    watched = plan.experiment.evaluation.metric
    whole = [with_presence(batch, modalities) for batch in batches]
    held = [name for name in modalities if any(name in batch for batch in whole)]

    def measured(change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> float | None:
        changed = [counting(change(batch), held) for batch in whole]
        if not any(len(real_rows(batch)) for batch in changed):
            return None
        run = plan.distributed
        metrics = {name: one for name, one in plan.metrics.items() if name != CONFUSION} or plan.metrics
        found = score(run.measure, state, changed, plan.metrics, plan.program.trials, run.put_whole, run.shards)
        name = watched if watched in found else next(iter(metrics), "loss")
        return round(float(np.ravel(found[name])[0]), 4)

    rows = [
        {
            "modality": name,
            "removed": measured(lambda batch, name=name: absent(batch, (name,))),
            "corrupted": measured(lambda batch, name=name: corrupted(batch, name)),
            "alone": measured(lambda batch, name=name: absent(batch, [one for one in held if one != name])),
        }
        for name in held
    ]
    return {"metric": watched, "all": measured(lambda batch: batch), "rows": rows if len(held) > 1 else []}


def with_presence(batch: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """A batch whose parts all say which examples have them, so that nothing compiles again when some are taken."""
    parts = {
        name: {**batch[name], PRESENT: np.asarray(present_in(batch[name]))} for name in modalities if batch.get(name)
    }
    return {**batch, **parts}


def absent(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A batch in which no example has some modalities."""
    gone = {name: {**batch[name], PRESENT: np.zeros_like(batch[name][PRESENT])} for name in names if name in batch}
    return {**batch, **gone}


def counting(batch: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """A batch in which examples without any modality weigh nothing."""
    there = np.max([batch[name][PRESENT] for name in modalities if name in batch], axis=0)
    return {**batch, "weights": np.asarray(batch.get("weights", np.ones_like(there)), np.float32) * (there > 0)}


def captions(plan: Plan, params: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a vision-language model writes to the first images of a set, and what was wanted."""
    written, wanted, pictures = [], [], []
    for batch in batches:
        if not {"images", "input_ids", "labels", "weights"} <= batch.keys() or np.ndim(batch["images"]) != 4:
            return {}
        few = {name: np.asarray(x)[: CAPTIONS - len(written)] for name, x in batch.items() if np.ndim(x)}
        counts = few["weights"] > 0
        few = {name: x[counts.any(axis=1)] for name, x in few.items()}
        counts = few["weights"] > 0
        if not len(counts):
            break
        # The place with the first weight predicts the answer's first token and is the prompt's last.
        ends = counts.argmax(axis=1) + 1
        new = int(counts.sum(axis=1).max()) + 2
        width, ids = int(ends.max()), few["input_ids"]
        left = np.stack([np.pad(row[:end], (width - end, 0)) for row, end in zip(ids, ends, strict=True)])
        real = np.arange(width) >= width - ends[:, None]
        new = min(new, plan.model.config.language.positions - width)
        if new < 1:
            return {}
        asked = {"images": few["images"], "input_ids": left, "attention_mask": real.astype(np.int32)}
        found = generate_from(plan.model, params, asked, max_new_tokens=new)
        tokens, lengths = np.asarray(found.tokens), np.asarray(found.lengths)
        written += [text_of(plan, one[:length]) for one, length in zip(tokens, lengths, strict=True)]
        wanted += [text_of(plan, row[count]) for row, count in zip(few["labels"], counts, strict=True)]
        pictures += list(few["images"])
        if len(written) >= CAPTIONS:
            break
    if not written:
        return {}
    scores = {"exact match": exact_match(written, wanted)}
    if importlib.util.find_spec("sacrebleu"):
        scores["BLEU"] = bleu(written, wanted)
    rows = [
        {"image": png_of(image), "written": said, "wanted": right, "right": said.split() == right.split()}
        for image, said, right in zip(pictures[:8], written, wanted, strict=False)
    ]  # fmt: skip
    return {"captions": {"of": len(written), "scores": scores, "rows": rows}}


def images_of(batch: Mapping[str, Any]) -> np.ndarray | None:
    """The first images of a batch, one an example; those of examples that lack one are left out."""
    part = next((one for one in (batch, batch.get("image", {}), batch.get("paired", {})) if "images" in one), None)
    if part is None or np.ndim(part["images"]) != 4:
        return None
    there = np.asarray(present_in({PRESENT: part[PRESENT]})) > 0 if PRESENT in part else slice(None)
    found = np.asarray(part["images"])[there][:LOOKED]
    return found if len(found) else None


def looked(model: Any, params: Any, images: np.ndarray) -> dict[str, Any]:
    """Where the image tower's last layer looks in some images."""
    maps = patch_attention(model, params, images)
    if maps is None:
        return {}
    rows = [{"image": png_of(image), "map": np.round(one, 4).tolist()} for image, one in zip(images, maps, strict=True)]
    return {"looked": rows}
