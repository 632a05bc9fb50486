"""What every test run starts from."""

import os

# Read when OpenMP is loaded: threads that spin while they wait slow each other down several times on two shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
