"""Text from a model: token by token, from an audio or image too, and with a draft model."""
