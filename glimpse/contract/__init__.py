"""What training and reading ask of an environment, and how one that was written from scratch is stepped."""
