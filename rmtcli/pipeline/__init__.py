"""The whole run, from file to file: the only place where the stages meet."""
