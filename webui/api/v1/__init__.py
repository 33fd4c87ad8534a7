"""The HTTP API of our own, below /api/v1."""
