"""The one room that wires the other packages: training and evaluation from names and paths, jobs, quickstart."""
