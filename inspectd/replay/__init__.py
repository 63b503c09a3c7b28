"""Recorded footage through the line again, and what came out otherwise than before: for `inspectd replay`."""
