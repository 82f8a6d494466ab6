"""How an image becomes noisy: variance exploding or linear interpolation."""
