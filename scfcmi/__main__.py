"""`python -m scfcmi` is the `scfcmi` command."""

from __future__ import annotations

import sys

from scfcmi.cli import main

sys.exit(main())
