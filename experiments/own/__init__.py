"""Experiments on files of one's own: ``ft-jax run sft --data.address chat.jsonl --model.address hf://org/model``."""
