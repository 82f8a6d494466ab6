"""Networks: U-Nets of the EDM family, whose published weights load by name, and a perceptron."""
