"""Measurements of a finished run besides its samples: gradients, pairs and their velocities."""
