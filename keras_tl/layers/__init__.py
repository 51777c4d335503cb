"""Layers that Keras 3 lacks, on TensorFlow, JAX and PyTorch."""

# activations
# control
# convolutional
# detection
# normalization
# pooling
# quantization
# regularization
# reshaping
# upsampling

__all__: list[str] = []
