"""Image files of every kind: which anomalib would misread, and how to read them rightly."""
