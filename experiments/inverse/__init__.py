"""Six inverse problems on images, by every method that takes them."""
