"""Metrics files to tables and figures."""

from couplet.reporting.published import Published, published_fid
from couplet.reporting.table import COLUMNS, Result, rows, to_csv, to_markdown

__all__ = ["COLUMNS", "Published", "Result", "published_fid", "rows", "to_csv", "to_markdown"]
