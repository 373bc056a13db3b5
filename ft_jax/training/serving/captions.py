"""A kept vision-language model writes to images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import data
from ft_jax.models import generate_from
from ft_jax.models.networks.vlm import VisionLanguageConfig
from ft_jax.training.own_data.captions import prompt_tokens
from ft_jax.training.serving.kept import Kept


def captions(
    kept: Kept,
    images: Sequence[str | Path],
    prompts: Sequence[str] = (),
    *,
    max_new_tokens: int = 128,
    key: jax.Array | None = None,
    **sampling: Any,
) -> Iterator[tuple[str, str]]:
    """What a run's model writes to each image after each prompt: ``(image, text)``.

    Args:
      kept: of `load_run`.
      images: paths.
      prompts: with ``<image>`` once; by default the run's own.
      max_new_tokens: at most so many each.
      key: for sampling.
      **sampling: as for `ft_jax.models.generate_from`.

    Raises:
      ValueError: the model sees no images, answers through methods of the run, or a prompt has not one place for the
        image.
      FileNotFoundError: there is no such file.
    """
    model = kept.alone("a caption")
    if not isinstance(model.config, VisionLanguageConfig):
        raise ValueError(f"the model of {kept.run} sees no images; leave --image out")
    prompts = list(prompts) or [kept.reads.get("prompt", "")]
    *size, channels = model.config.vision.image
    for path in images:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}; give the path of an image")
        with open(path, "rb") as file:
            image = data.Image("image", tuple(size), channels).decode(file, str(path))
        for prompt in prompts:
            batch = {"images": image[None], "input_ids": prompt_tokens(model, prompt)[None]}
            room = model.config.language.positions - batch["input_ids"].shape[1]
            if room < 1:
                raise ValueError(f"the prompt and the image fill the model's {model.config.language.positions} tokens")
            new = min(max_new_tokens, room)
            found = generate_from(model, model.params, batch, max_new_tokens=new, key=key, **sampling)
            ids = np.asarray(found.tokens)[0][: int(found.lengths[0])]
            yield str(path), model.tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()
