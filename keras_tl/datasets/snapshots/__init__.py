"""Samples as they were: frozen, told apart by their Merkle root, and who was trained on them."""
