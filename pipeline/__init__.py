"""The pure core: bytes and values in, values out. No clock, no randomness, no I/O.

`commands/` and `cli.py` are the composition root and the only place that imports every room.
"""
