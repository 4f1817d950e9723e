"""The dashboard: pages for people at `/`, on the same services and queries as the API."""
