"""Several processes that train one agent together (`torchrun`): each of them is a rank."""
