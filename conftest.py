"""What every test run starts from."""

import os

# Both are read when OpenMP is loaded. Threads that spin while they wait slow each other down several times on two
# shared cores, and so do the threads of tests that run side by side.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
