"""The parts of `tools/teach_discriminator.py`: good parts of stations that do not exist, and the training on them."""
