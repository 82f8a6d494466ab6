"""Extractors: images to features. A new one is a file here and its class in ``couplet.config.extractors``."""
