"""Figures: one a file, each `main(table, story) -> Figure`, from what a page keeps: rows, names and the gate."""
