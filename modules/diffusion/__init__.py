"""Diffusion in sigma space (x = x0 + sigma * noise): knows no network and no prompt, and imports no torch."""
