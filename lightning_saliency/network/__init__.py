"""Looking into a model without disturbing it."""
