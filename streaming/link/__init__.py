"""How another process reads through the engine: messages over a socket pair, and the worker that asks."""
