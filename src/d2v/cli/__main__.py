"""`python -m d2v.cli` is `d2v`."""

import sys

from d2v.cli.commands import main

sys.exit(main())
