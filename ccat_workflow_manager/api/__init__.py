"""The REST API of contract section 3: one module for each resource, with its models and its routes."""
