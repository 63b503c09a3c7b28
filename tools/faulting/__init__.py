"""Fault injectors around a real daemon's camera, engine and wall clock, and their remote control."""
