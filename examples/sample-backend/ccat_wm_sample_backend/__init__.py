"""A backend for ccat-workflow-manager: each job is a child process of the worker."""
