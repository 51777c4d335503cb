"""From a view to `fit`: the order, the batches, what is done to them, and other loaders."""
