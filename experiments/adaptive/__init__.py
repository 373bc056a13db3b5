"""Adaptive learning."""
