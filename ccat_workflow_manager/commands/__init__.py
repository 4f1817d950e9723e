"""The commands of `ccat-wm`, one module per group. What is heavy is imported inside the command that needs it."""
