"""The durable job queue: jobs in SQLite, a dispatcher that shares workers fairly, and the worker processes."""
