"""Reading of image files: lists of them, and 16-bit, DICOM and turned images as anomalib reads them correctly."""
