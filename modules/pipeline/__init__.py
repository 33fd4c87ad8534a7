"""One request's way: decide everything (`plan`), then compute it (`generate`)."""
