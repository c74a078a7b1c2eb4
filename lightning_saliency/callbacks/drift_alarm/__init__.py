"""When a network begins to look elsewhere: what is watched, how it is judged, what is said."""
