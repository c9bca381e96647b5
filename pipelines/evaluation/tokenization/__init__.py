"""Prompts and texts of a study as token ids."""
