"""The watch list of studies and models, and the work that they still need."""
