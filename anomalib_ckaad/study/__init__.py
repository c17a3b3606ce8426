"""Comparisons and what is written of them."""
