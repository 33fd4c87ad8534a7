"""The prompt language: text to tokens and to a schedule over the steps. No torch."""
