"""What was found and done, as a value, and its renderings."""
