"""The parts of `inspectd demo`: run the daemon as a process, count its verdicts, draw them."""
