"""Figures: one a file, each `main(table) -> Figure`, from tables only."""
