"""What is elsewhere becomes a dataset: the work behind `hub.datasets.from_...` (`importing`)."""
