"""Factored checkpoints in other programs."""
