"""Sources of images, the prepared archive, and the loader that starts at any step."""
