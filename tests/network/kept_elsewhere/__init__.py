"""A package of the user, whose modules keep something for themselves."""
