"""k-means for people who work in PyTorch."""
