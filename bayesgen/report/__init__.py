"""Rows to one self-contained page."""
