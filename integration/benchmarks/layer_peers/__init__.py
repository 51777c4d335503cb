"""Hand-written versions of the layers that `layers.py` measures, and what it measures them on."""
