"""Object detection and instance segmentation on a backbone of ours (spec S1.9 d): data, model, training, scores."""
