"""Datasets as people look at them: figures, pictures, HTML."""
