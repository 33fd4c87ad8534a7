"""The generation pipeline: `plan` decides everything, then `run` and `sample` compute it."""
