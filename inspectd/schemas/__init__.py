"""The published JSON Schemas (package data): result, reject, health, question, answer."""
