"""All that touches the insides of anomalib, Lightning or torch; each touch has a test that names it."""
