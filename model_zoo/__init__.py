"""The systems that are trained."""
