"""Readers and generators of user-partitioned data."""

from simulations.datasets.registry import DatasetCard, describe, load, names

__all__ = ["DatasetCard", "describe", "load", "names"]
