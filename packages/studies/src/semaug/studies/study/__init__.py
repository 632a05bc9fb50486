"""Studies: what the papers' tables and figures compare, as presets that run on one's own machine.

A *preset* (``presets/<name>.toml``, read by ``catalogue``) says what is compared: *settings* (a method, a backbone, a
data set), *variants* (what differs between them: pairs, artifacts, hyperparameters), *scales* (how large), evaluations,
and which cell of a paper each result stands beside. A *kind* (``kinds.KINDS``) turns a preset into jobs. ``run_study``
prepares the artifacts, runs the jobs that are not done, and writes the report; ``write_study_report`` writes it again.
"""
