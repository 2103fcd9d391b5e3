"""Pictures of what an agent or another reader did."""
