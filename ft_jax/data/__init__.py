"""Data: from an address to batches on the devices.

``load`` gives a `Dataset`; `tokenize`, `next_tokens`, `preferences` and `pack` turn its texts to tokens; `batches` and
`evaluation_batches` make numpy batches with the fields that models take; `zip_streams` puts streams side by side;
`prefetch_to_device` sends them ahead; `augmented` changes a batch's examples inside a step, see `augment_text` and
`augment_images`. The checks say in one sentence what is wrong with bad input.
"""

from ft_jax.data.alignment import aligned, aligned_rows, common_tokens, token_bytes
from ft_jax.data.augmentation import augmented, in_turn
from ft_jax.data.checks import (
    check_batch,
    check_columns,
    check_divides,
    check_finite,
    check_labels,
    check_lengths,
    check_not_empty,
)
from ft_jax.data.collate import collate
from ft_jax.data.completions import next_tokens
from ft_jax.data.dataset import Computed, Dataset, concatenate
from ft_jax.data.experiences import by_class, by_time, by_value
from ft_jax.data.files import from_file
from ft_jax.data.folds import folds, nested_folds
from ft_jax.data.images import digits, mnist
from ft_jax.data.judgements import judgements
from ft_jax.data.labels import one_mapping
from ft_jax.data.live import follow
from ft_jax.data.masking import mask_tokens
from ft_jax.data.media import image_places
from ft_jax.data.modalities import Audio, Collected, Image, Skipped, modalities, referenced, shards
from ft_jax.data.packing import pack
from ft_jax.data.pipeline import Batches, EvaluationBatches, batches, evaluation_batches
from ft_jax.data.preferences import preferences
from ft_jax.data.sampling import sample
from ft_jax.data.sentiment import DOMAINS, sentiment, unlabelled
from ft_jax.data.sources import load
from ft_jax.data.streams import prefetch_to_device, put, zip_streams
from ft_jax.data.tfds import from_tfds
from ft_jax.data.tokens import encode, special_ids, tokenize

__all__ = [
    "DOMAINS",
    "Audio",
    "Batches",
    "Collected",
    "Computed",
    "Dataset",
    "EvaluationBatches",
    "Image",
    "Skipped",
    "aligned",
    "aligned_rows",
    "augmented",
    "batches",
    "by_class",
    "by_time",
    "by_value",
    "check_batch",
    "check_columns",
    "check_divides",
    "check_finite",
    "check_labels",
    "check_lengths",
    "check_not_empty",
    "collate",
    "common_tokens",
    "concatenate",
    "digits",
    "encode",
    "evaluation_batches",
    "folds",
    "follow",
    "from_file",
    "from_tfds",
    "image_places",
    "in_turn",
    "judgements",
    "load",
    "mask_tokens",
    "mnist",
    "modalities",
    "nested_folds",
    "next_tokens",
    "one_mapping",
    "pack",
    "preferences",
    "prefetch_to_device",
    "put",
    "referenced",
    "sample",
    "sentiment",
    "shards",
    "special_ids",
    "token_bytes",
    "tokenize",
    "unlabelled",
    "zip_streams",
]
