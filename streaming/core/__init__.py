"""What everything else stands on: configuration, units, logs, masked secrets, the event-loop thread, ranks."""
