"""`python -m streamgrad.cli` is `streamgrad`."""

import sys

from streamgrad.cli import main

sys.exit(main())
