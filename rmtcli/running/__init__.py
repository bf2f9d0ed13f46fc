"""What needs the network to run: calibration, the guard's search, and refinement of factors."""
