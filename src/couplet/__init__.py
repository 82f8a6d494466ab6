"""Consistency-model training, reproduced and compared."""
