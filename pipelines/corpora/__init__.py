"""Texts for calibration and perplexity: shipped, from a file, or from a data set of the hub."""
