"""Images from a trained model, one seed per sample."""
