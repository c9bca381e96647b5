"""Texts for calibration and perplexity: shipped, from a file, or a data set of the hub."""
