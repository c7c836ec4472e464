"""Entry point of `python -m lorasa_rllib.cli`."""

import sys

from lorasa_rllib.cli import main

sys.exit(main())
