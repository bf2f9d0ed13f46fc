"""What a network's layers see: moments of their inputs and of their output gradients."""
