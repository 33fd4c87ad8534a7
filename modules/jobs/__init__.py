"""The durable queue: jobs in SQLite, a dispatcher that shares the workers fairly, and the processes that run models."""
