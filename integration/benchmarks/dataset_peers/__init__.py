"""What `datasets.py` measures on, and the peers that read and store the same samples."""
