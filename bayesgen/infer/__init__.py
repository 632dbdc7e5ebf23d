"""Rows to beliefs: rival hypotheses, fitted and compared. Reads tables only."""
