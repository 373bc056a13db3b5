"""Benchmarks: each module prints JSON lines and states what it ran on."""
