"""Batches for a trainer: the data loader, its sampler, resumable state, collate functions, device copies."""
