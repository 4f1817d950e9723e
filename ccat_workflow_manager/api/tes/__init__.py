"""GA4GH TES 1.1: a task is a run of an inline pipeline with one step for each executor. docs/tes.md has the mapping."""
