"""UniVRD (arXiv:2303.08998): one relationship detector for many label spaces."""
