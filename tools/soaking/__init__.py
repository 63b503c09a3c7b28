"""The parts of `tools/soak.py`: supervisor, listener, tally, faults, rates, the run and its report."""
