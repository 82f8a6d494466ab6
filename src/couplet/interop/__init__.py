"""Models that other projects published, read without executing anything in them."""
