"""How a model is pruned: recipes, exact masks, and variants that are a mask and not a copy."""
