"""`python -m cellrt`: the command line."""

import sys

from cellrt.cli import main

sys.exit(main())
