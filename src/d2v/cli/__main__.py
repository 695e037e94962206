"""Entry point of `python -m d2v.cli`, which is equivalent to `d2v`."""

import sys

from d2v.cli.commands import main

sys.exit(main())
