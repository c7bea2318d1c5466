"""The 1797 handwritten digits of 8 x 8 pixels in scikit-learn: real data without a download.

Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI
Machine Learning Repository). Values 0..16 become the multiples of 1/8 in [-1, 1], exactly.
"""

import numpy as np

from jaxdiff.data.dataset import Dataset, split

TEST_FRACTION = 0.2


def load_digits(part: str = "all") -> Dataset:
    """The digits, float32 (n, 8, 8, 1) in [-1, 1], with ten classes.

    ``part``: "train", "test" (a fifth of every class, always the same) or "all". Raises ValueError
    for another.
    """
    from sklearn.datasets import load_digits as read

    images, labels = read(return_X_y=True)
    scaled = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    digits = Dataset(scaled, labels, 10, "digits", "scikit-learn, values 0..16")
    if part == "all":
        return digits
    if part not in ("train", "test"):
        raise ValueError(f'part must be "all", "train" or "test", got {part!r}')
    return split(digits, TEST_FRACTION)[part == "test"]
