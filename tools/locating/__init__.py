"""For tools/located.py and tests: drawn frames of turned parts."""
