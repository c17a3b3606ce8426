"""From a trained model to the line: exported files, the runtimes that run them, and whether they agree."""
