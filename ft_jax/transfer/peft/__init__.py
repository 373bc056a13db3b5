"""The adapters of this family in peft's files."""

from ft_jax.transfer.peft import adalora, low_rank, rotations, tokens, updates

__all__ = ["adalora", "low_rank", "rotations", "tokens", "updates"]
