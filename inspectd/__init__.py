"""The daemon: everything between a trigger and a verdict."""
