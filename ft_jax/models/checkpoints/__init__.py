"""Checkpoints in the formats people have: read, placed on devices, and written."""
