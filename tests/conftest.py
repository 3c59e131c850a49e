"""Deterministic tests: one thread, and the same hypothesis examples in every run."""

import torch
from hypothesis import settings

settings.register_profile("fedemb", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fedemb")
torch.set_num_threads(1)
