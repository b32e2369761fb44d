"""The data that flows through edgellm: frozen dataclasses, and the strict reader that fills them."""
