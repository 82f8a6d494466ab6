"""Records of stages: inputs, settings, code and environment of every output, and checks of them."""
