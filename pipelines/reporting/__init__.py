"""Charts, the explorer's documents, published numbers and advice, from frames of the warehouse's views."""
