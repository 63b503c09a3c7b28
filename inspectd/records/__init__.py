"""Exactly one record per part: rows in SQLite, images beside them, numbers that never come twice, retention."""
