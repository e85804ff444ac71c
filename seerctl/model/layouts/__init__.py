"""Model files of other libraries and of our own, read tensor by tensor under torchvision's names."""
