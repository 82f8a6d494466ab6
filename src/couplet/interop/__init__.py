"""Readers of weights that other projects publish."""
