// A shared library needs a source of its own; all of it is in edgellm_core.
