"""The numbers of an explanation: how far maps moved, what they lie on, if they can be trusted."""
