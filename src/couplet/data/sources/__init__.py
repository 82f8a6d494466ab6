"""Readers of data sets: a module per format or family of kinds, named by the configuration classes."""
