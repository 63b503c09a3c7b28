"""The parts of `tools/benchmark.py`: the machine, the engine, the line, accuracy."""
