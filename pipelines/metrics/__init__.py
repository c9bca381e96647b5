"""What is measured: representation shifts, options and text."""
