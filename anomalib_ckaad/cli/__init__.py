"""The commands of ``anomalib-ckaad``, one module each."""
