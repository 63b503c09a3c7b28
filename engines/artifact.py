"""The bundle: everything that calibration hands to the daemon, immutable and addressed by its hash."""
