"""Seconds of one core per 1,000 decoded images and peak memory of one detector, alone in this process.

    python tools/oracle_costs.py ../shared/data/imagenet100 saliency
    python tools/oracle_costs.py ../shared/data/imagenet100 examples/fastestdet/fastestdet_detector.py:FastestDet \\
        --option model=../shared/models/fastestdet.onnx

Loading and one image of warm-up are left out; of three passes the fastest counts. Time is the processor's, so that
other work on the machine matters little, and all threads count. Memory is all of the process, with decoding. Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
BATCH = 16
"""Images that a detector gets at once, as in ``semaug guide extract``."""


def measure_costs(folder: str, name: str, options: list[str], passes: int = 3) -> dict[str, float]:
    """``seconds`` of one core per 1,000 images and ``memory`` of this process in MB."""
    import cv2

    from semaug.artifacts.shards import peak_memory
    from semaug.artifacts.sources import open_source
    from semaug.oracles.catalogue import OracleSpec, open_detector
    from semaug.oracles.protocols import Detector

    cv2.setNumThreads(1)
    detector, source = open_detector(OracleSpec.parse(name, options)), open_source(folder)
    if not isinstance(detector, Detector):
        raise SystemExit(f"{name} looks images up by key; only detectors that look at pixels are timed")
    detector.detect([source.read(0)])
    seconds = [0.0] * passes
    for start in range(0, len(source), BATCH):
        images = [source.read(i) for i in range(start, min(start + BATCH, len(source)))]
        for i in range(passes):
            started = time.process_time()
            detector.detect(images)
            seconds[i] += time.process_time() - started
    return {"seconds": min(seconds) / len(source) * 1000, "memory": peak_memory() / 1e6}


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("detector")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    os.environ.update(dict.fromkeys(THREADS, "1"))  # before the libraries are imported that read them
    print(json.dumps(measure_costs(given.folder, given.detector, given.option)))


if __name__ == "__main__":
    main()
