"""Published experiments with RMT-SVD, run again with their baselines.

An experiment is a list of rows, ways of training with the papers' settings and figures; where a row
differs from the paper, its title says so. The record of an experiment is its JSON file: runs that
it contains are not repeated, so that a comparison can be interrupted and rows can be added, and a
file with other settings is refused.
"""
