"""What training and evaluation need of an environment, and how environments written from scratch are used."""
