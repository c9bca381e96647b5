"""Export of variants as Hugging Face checkpoints, verified before they appear."""
