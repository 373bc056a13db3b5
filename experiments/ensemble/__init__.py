"""Ensemble learning."""
