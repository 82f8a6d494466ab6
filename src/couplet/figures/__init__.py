"""Figures of studies: one module per kind, which decides about rows, picture, statements and caption."""
