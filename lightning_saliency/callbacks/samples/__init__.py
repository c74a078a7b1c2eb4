"""The fixed validation samples: which they are, how they are found, and what is known of them."""
