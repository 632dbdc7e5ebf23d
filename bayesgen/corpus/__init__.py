"""Personas speak: grammar, tokenizer, documents drawn by step, narrow datasets."""
