"""From good parts to a bundle."""
