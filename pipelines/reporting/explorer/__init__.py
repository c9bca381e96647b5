"""The report and the explorer: documents of a study as JSON, and the one page that shows them."""
