"""Values on the move: between the stages (inproc multipart) and to those outside (JSON with a published schema)."""
