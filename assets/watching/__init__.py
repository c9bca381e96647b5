"""The watch list of models, and what they still need."""
