"""What a study still needs: fingerprints of inputs, the work plan, versions of answers."""
