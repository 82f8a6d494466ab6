"""What a user may set, as closed models; free of torch."""
