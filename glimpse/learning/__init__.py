"""The stages of learning: contrastive pretraining, warm-up, and learning from episodes."""
