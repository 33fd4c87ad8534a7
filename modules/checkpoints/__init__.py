"""Files to networks: reading, judging, recognising and keeping checkpoints."""
