"""Every method of distillation on real images: scikit-learn's handwritten digits."""
