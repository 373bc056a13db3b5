"""Adapters in peft's files, read and written."""
