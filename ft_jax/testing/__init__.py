"""The laws of composition, for any method."""
