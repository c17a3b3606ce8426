"""Comparisons of methods: run them, store the results, report them."""
