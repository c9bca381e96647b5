"""Where dense models come from, what is inside them, and how a decoder is read without its architecture's code."""
