"""What follows an explanation: numbers, pictures, tables, files, checks; each owns its state."""
