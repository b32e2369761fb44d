"""Architectures of edgellm's own, in transformers' form: `save_pretrained` writes folders that `edgellm build` takes."""
