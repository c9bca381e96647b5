"""Loading of dense models, and discovery of their parts without architecture-specific code."""
