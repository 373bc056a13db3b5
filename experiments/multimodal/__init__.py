"""Multimodal learning."""
