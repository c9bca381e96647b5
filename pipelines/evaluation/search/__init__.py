"""Search for the treatment of every sublayer that reaches a budget at the lowest KL(dense ‖ pruned) at the output."""
