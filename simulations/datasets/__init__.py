"""Readers and generators of user-partitioned data.

`load(name)` opens a data set; `simulations.datasets.prepare.prepare` decodes one into
shards once.
"""

from simulations.datasets.catalogue import DatasetCard
from simulations.datasets.registry import OPTIONAL, describe, load, names

__all__ = ["OPTIONAL", "DatasetCard", "describe", "load", "names"]
