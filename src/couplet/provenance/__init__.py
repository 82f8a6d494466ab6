"""Records of what results were made from and with, and the questions that they answer."""
