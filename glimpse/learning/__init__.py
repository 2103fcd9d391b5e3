"""The stages of a training: contrastive pretraining, warm-up, and learning from episodes."""
