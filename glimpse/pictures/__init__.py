"""Pictures of what an agent did."""
