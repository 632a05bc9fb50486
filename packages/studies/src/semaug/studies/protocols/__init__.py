"""The families of evaluation protocols: each module joins the encoder of a run, image sources and evaluators."""
