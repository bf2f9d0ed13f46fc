"""Hugging Face directories: a configuration, weights in one file or in shards, and much else."""
