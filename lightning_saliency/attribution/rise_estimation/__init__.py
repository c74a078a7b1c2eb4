"""How RISE turns the scores of masked images into maps."""
