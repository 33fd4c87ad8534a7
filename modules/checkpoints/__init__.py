"""Model files: listing, identifying, loading and caching checkpoints."""
