"""`python -m edgellm.runtime` is a worker."""

import sys

from edgellm.runtime.worker import main

sys.exit(main())
