"""Reads through the engine from another process: the interface, messages over a socket pair, and the worker."""
