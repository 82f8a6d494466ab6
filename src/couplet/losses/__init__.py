"""The loss of a pair: a distance per image and the weight of its noise levels."""
