"""The steps of engines.compile: export, precision candidates, parity; needs the `calibrate` extra."""
