"""What a study will cost on one model, from sizes alone: nothing is loaded and nothing computed."""
