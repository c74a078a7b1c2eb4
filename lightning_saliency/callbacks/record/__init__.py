"""What is seen of an explanation, and what is kept of a run."""
