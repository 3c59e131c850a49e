"""Readers and generators of user-partitioned data."""
