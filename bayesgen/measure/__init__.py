"""Weights to rows: one file a quantity."""
