"""Activations with weights or a form that Keras lacks."""

__all__: list[str] = []
