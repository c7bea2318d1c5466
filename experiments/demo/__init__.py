"""The numbers of the demo, as a page."""
