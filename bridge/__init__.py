"""Trunkbridge: a bridge between phone carriers and hosted AI voice platforms."""

__version__ = "0.1.0"
