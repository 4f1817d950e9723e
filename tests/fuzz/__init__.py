"""Broken and hostile texts for every parser of foreign text."""
