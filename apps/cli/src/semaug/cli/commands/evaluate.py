"""``semaug eval``: a lazy group, since each family of protocols has libraries of its own."""

from __future__ import annotations

from semaug.cli.console import LazyGroup

COMMANDS = {
    "embed": ("evaluation.features:embed", "Features of images, as an artifact, NPY or Parquet."),
    "linear": ("evaluation.probes:linear", "Linear probe on frozen features."),
    "knn": ("evaluation.probes:knn", "Weighted kNN over k and temperature."),
    "svm": ("evaluation.classical:svm", "Support vector machine, over folds and on a test set."),
    "kmeans": ("evaluation.classical:kmeans", "k-means against the classes."),
    "fewshot": ("evaluation.classical:fewshot", "Few-shot episodes of 1, 5 and 20 images a class."),
    "semi": ("evaluation.classical:semi", "1% and 10% of the labels."),
    "finetune": ("evaluation.training:finetune", "Training of the whole network on labels."),
    "transfer": ("evaluation.training:transfer", "Linear probe and kNN on several data sets."),
    "distil": ("evaluation.training:distil", "Distillation into another network."),
    "detect": ("evaluation.detection:detect", "Object detection, fine-tuned: Faster R-CNN."),
    "segment": ("evaluation.detection:segment", "Instance segmentation, fine-tuned: Mask R-CNN."),
    "geometry": ("evaluation.geometry:geometry", "Dimension, uniformity, alignment, Betti curves."),
    "invariance": ("evaluation.geometry:invariance", "What features keep of changed images."),
    "figures": ("evaluation.figures:figures", "The pictures of a run, as files and one page."),
    "all": ("evaluation.everything:everything", "Every protocol that fits, and a report."),
}
"""verb -> (module:attribute below ``semaug.cli.commands``, short help)."""

group = LazyGroup("eval", COMMANDS, help="Evaluate the encoder of a run on labelled images.")
