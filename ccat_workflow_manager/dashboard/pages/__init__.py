"""The pages, one module per group of addresses. Handlers gather; services, queries and `words` do the work."""
