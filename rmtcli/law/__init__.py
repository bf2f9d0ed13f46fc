"""The formulas of random matrix theory, and nothing else."""
