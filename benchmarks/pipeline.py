"""The host's share of a step: how long the device waits for a batch that is tokenised and packed on the way."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ft_jax.models import DecoderConfig
from ft_jax.training.logging import Log
from ft_jax.training.stream import Feeder, Task

from .case import Options
from .programs import build
from .timing import spread

WORDS = ["the", "model", "learns", "what", "a", "batch", "of", "tokens", "says", "about", "language", "and", "time"]


class Tokenised:
    """Endless packed rows made of random words, joined, split and mapped to ids one by one, as a tokenizer would."""

    def __init__(self, batch: int, length: int, vocabulary: int):
        self.batch, self.length, self.vocabulary, self.count = batch, length, vocabulary, 0
        self.known = {word: 1 + index % (vocabulary - 1) for index, word in enumerate(WORDS)}

    def __next__(self) -> dict[str, np.ndarray]:
        self.count += 1
        random = np.random.default_rng(self.count)
        rows, segments = [], []
        for _ in range(self.batch):
            ids, marks = [], []
            while len(ids) < self.length + 1:
                text = " ".join(WORDS[index] for index in random.integers(0, len(WORDS), 40))
                document = [self.known[word] for word in text.split()]
                marks += [(marks[-1] if marks else 0) + 1] * len(document)
                ids += document
            rows.append(ids[: self.length + 1])
            segments.append(marks[: self.length])
        ids = np.asarray(rows, np.int32)
        return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "segment_ids": np.asarray(segments, np.int32)}

    def get_state(self) -> int:
        return self.count

    def set_state(self, state: int) -> None:
        self.count = state


def rows(options: Options) -> Iterator[dict[str, Any]]:
    """One row: the share of the time in which the loop waited for a batch, and the longest time a log line took."""
    name, shape = options.shape("small" if jax.default_backend() == "cpu" else "llama-1b")
    if not isinstance(shape.config, DecoderConfig):
        raise ValueError(f"pipeline packs text for a decoder and {name} is none; take another --size, or none")
    step = build("lora", shape, rank=options.rank, forward=options.forward)
    source = Tokenised(shape.batch, shape.time, shape.config.vocabulary)
    begin = time.perf_counter()
    for _ in range(5):
        next(source)
    making = (time.perf_counter() - begin) / 5
    compiled, state, _ = step.start()
    log, waits, lines, steps = Log(None, 10**6, quiet=True), [], [], max(options.repeats, 4) * 4
    device = jax.local_devices()[0]
    state = jax.device_put(state, device)
    with Feeder(Task("benchmark", source), lambda batch: jax.device_put(batch, device)) as feeder:
        for _ in range(3):
            state, metrics = compiled(state, feeder.take(lambda: None).batch)
        jax.block_until_ready(metrics)
        begin = time.perf_counter()
        for index in range(steps):
            asked = time.perf_counter()
            batch = feeder.take(lambda: None).batch
            waits.append(time.perf_counter() - asked)
            state, metrics = compiled(state, batch)
            told = time.perf_counter()
            log.train(index, metrics, lambda seconds=told - begin: seconds, index, index)
            lines.append(time.perf_counter() - told)
            jax.block_until_ready(metrics)
        whole = time.perf_counter() - begin
    log.close()
    yield {
        "size": name,
        "batch": [shape.batch, shape.time],
        "seconds_to_make_a_batch": making,
        "seconds_of_a_step": whole / steps,
        "wait_share": sum(waits) / whole,
        "wait_seconds": spread(waits),
        "log_seconds": spread(lines),
        "compilations": compiled.compilations(),
    }
