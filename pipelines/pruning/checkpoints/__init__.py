"""What leaves: a variant as a Hugging Face folder that stock transformers opens, proved before it gets its name."""
