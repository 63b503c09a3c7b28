"""The networks, and how they run."""
