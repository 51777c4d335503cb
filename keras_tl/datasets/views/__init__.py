"""Views: questions that are asked of a dataset, lazily, and what answers them."""
