"""The shape of an embedding: intrinsic dimension, uniformity and alignment, Betti curves, invariance, information."""
