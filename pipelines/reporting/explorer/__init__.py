"""Report and explorer: the JSON documents of a study, and the page that shows them."""
