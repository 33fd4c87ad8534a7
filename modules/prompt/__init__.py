"""The prompt language: from text to a schedule over the steps, weights, and tokens. No torch."""
