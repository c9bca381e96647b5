"""Loading of dense models, and discovery of their parts without code for any architecture."""
