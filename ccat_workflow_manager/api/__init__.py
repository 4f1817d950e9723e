"""The REST API of contract section 3. Each module owns the calls of one resource; `router.py` puts them together."""
