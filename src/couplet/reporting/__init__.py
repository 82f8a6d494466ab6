"""Numbers of evaluated cells as tables, pages and pictures."""
