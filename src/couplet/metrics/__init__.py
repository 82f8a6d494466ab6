"""Sample quality: images to features by an extractor, features to numbers in float64."""
