"""The verbs of ``semaug eval``, a module for each family of protocols."""
