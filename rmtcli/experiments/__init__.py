"""The published experiments, to be run again."""
