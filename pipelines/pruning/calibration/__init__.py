"""Statistics of a model's inputs on calibration text, layer by layer."""
