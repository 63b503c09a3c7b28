"""Cameras behind the `Camera` protocol of `inspectd.camera`."""
