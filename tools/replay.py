#!/usr/bin/env python3
"""`inspectd replay` under its older name: recorded footage through a station's line again."""

from __future__ import annotations

import sys

from inspectd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["replay", *sys.argv[1:]]))
