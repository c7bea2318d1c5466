"""Denoisers smaller than their teacher, by every method, on handwritten digits and MNIST."""
