"""The project's figures on all-MiniLM-L6-v2: `make bench` prints them, nothing asserts an absolute time."""
