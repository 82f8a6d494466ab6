"""Metrics files to tables and figures."""

from couplet.reporting.published import Published, reported
from couplet.reporting.table import Missing, Result, rows, to_csv, to_html, to_markdown

__all__ = ["Missing", "Published", "Result", "reported", "rows", "to_csv", "to_html", "to_markdown"]
