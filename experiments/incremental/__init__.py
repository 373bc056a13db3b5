"""Incremental learning."""
