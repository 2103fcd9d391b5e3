"""Images that are drawn where they are read."""
