"""Annotation files of the eight VideoGLUE data sets, each in its publisher's format."""
