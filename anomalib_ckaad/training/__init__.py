"""What happens in a training besides the step: presets, length, precision, calibration, checkpoints."""
