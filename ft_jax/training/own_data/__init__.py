"""Data specs for one's own files, one for every shape of data that people have.

- `Labelled`: texts with classes or numbers; `ImageFolder`: images in folders that are named by their classes;
- `Chats`, `Completions`, `Documents`, `Written`: text to learn to write; `CommonTokens`, what a teacher's tokenizer
  shares;
- `Preferences`: two answers of which one is preferred; `Questions`: prompts with an answer that `Verified` checks;
- `Captions`: images with what is to be written to them;
- `Together`: images, sounds and texts of one example, any of them missing;
- `Altered`: an augmentation of the examples by name, an option of methods;
- `Pairs`: two texts whose embeddings should be close;
- `Mixture`: several of these as one, in fixed shares or as a method of the run draws them.
"""

from collections.abc import Mapping

from ft_jax.training.own_data.altered import Altered
from ft_jax.training.own_data.captions import Captions
from ft_jax.training.own_data.held_out import train_and_evaluation
from ft_jax.training.own_data.images import ImageFolder, pixels
from ft_jax.training.own_data.labelled import Labelled
from ft_jax.training.own_data.mixture import Mixture
from ft_jax.training.own_data.pairs import Pairs
from ft_jax.training.own_data.preferences import Preferences
from ft_jax.training.own_data.questions import Questions, Verified
from ft_jax.training.own_data.rows import in_pieces
from ft_jax.training.own_data.together import Together
from ft_jax.training.own_data.written import Chats, CommonTokens, Completions, Documents, Written

SHAPES: Mapping[str, type] = {
    one.__name__: one
    for one in (
        Labelled,
        Chats,
        Completions,
        Documents,
        Written,
        Preferences,
        Questions,
        Pairs,
        ImageFolder,
        Together,
        Captions,
    )
}
"""Every spec for one's own files, by name."""

__all__ = [
    "SHAPES", "Altered", "Captions", "Chats", "CommonTokens", "Completions", "Documents", "ImageFolder", "Labelled",
    "Mixture", "Pairs", "Preferences", "Questions", "Together", "Verified", "Written", "in_pieces", "pixels",
    "train_and_evaluation",
]  # fmt: skip
