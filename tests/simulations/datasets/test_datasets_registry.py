"""The table of data sets: cheap to list, complete, with cards that tell the truth."""

import importlib
import subprocess
import sys

import pytest

from simulations.datasets import describe, names
from simulations.datasets.catalogue import cards


def test_listing_imports_nothing_heavy():
    heavy = ("torch", "PIL", "pyarrow", "scipy", "flwr", "datasets")
    code = (
        "import sys, simulations.datasets as d; d.names(); d.load('synthetic')\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", sorted(cards()))
def test_every_card_has_a_loader(name):
    card = describe(f"{name}:somewhere" if cards()[name].takes_path else name)
    module = importlib.import_module(f"simulations.datasets.{card.module}")
    assert callable(module.load)
    assert card.description[0].islower()
    assert card.name in names()
