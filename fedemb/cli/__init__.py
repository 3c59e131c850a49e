"""The command line: the outermost layer; nothing imports it.

Modules here import torch, Flower and the like inside commands, never at the top, so
that `fedemb --help` answers at once.
"""
