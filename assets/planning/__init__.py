"""The steps of a study, fingerprints of their inputs, freshness of their results, and the plan of work."""
