"""Sample quality: extractors turn images into features, metrics compare features, in float64."""
