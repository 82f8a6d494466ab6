"""Which results there are, what they are made of, and where they lie; free of torch."""
