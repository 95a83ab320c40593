"""`python -m ddim_core` is the command `ddim`."""

import sys

from .cli import main

sys.exit(main())
