"""The composition root: one module per command of the CLI."""
