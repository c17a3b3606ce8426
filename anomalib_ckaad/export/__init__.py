"""Export of trained models, the runtimes that run exported files, and the comparison of both."""
