"""Training: one way to fit a torch module, on transformers' Trainer and accelerate. Imported where the `train` extra is."""
