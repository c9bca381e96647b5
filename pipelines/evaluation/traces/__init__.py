"""How a variant's representations leave the dense model's, layer by layer and token by token."""
