"""Stages of a build: one plain function each, from one frozen dataclass to the next."""
