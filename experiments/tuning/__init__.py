"""Hyperparameter tuning."""
