"""Samples into MongoDB and their changes: packs, heads, documents, each write in its order."""
