"""Engines: how the deltas of a few virtual clients are computed.

All engines compute the same function, up to float rounding, and are tested against the
serial one in float64.
"""
