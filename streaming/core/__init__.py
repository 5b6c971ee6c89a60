"""Foundations: configuration, units, logs, masked secrets, the event-loop thread, ranks."""
