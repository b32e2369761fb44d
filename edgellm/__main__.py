"""`python -m edgellm` is the command line."""

from edgellm.cli.main import main

main()
