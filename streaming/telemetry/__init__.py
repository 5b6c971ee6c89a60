"""What the hot path counts and times, for others to read: counters, stages, timelines, stalls."""
