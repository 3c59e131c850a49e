"""Procedural clips: shapes that act, seen by cameras of their own, with captions."""
