"""What is wrong with a message that came in."""

from __future__ import annotations

from inspectd.errors import InspectdError


class WireError(InspectdError):
    """A message that cannot be read: wrong type, version, field, size or number."""
