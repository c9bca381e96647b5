"""Prediction of what a study costs on a model, from sizes alone: no weights are loaded and nothing is computed."""
