"""When explanations are due, what they may cost, and how far they are."""
