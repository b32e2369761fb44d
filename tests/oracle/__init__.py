"""Answers of other programs to the same inputs, recorded with their versions, and the scripts that record them."""
