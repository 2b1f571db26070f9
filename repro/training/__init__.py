"""Training and evaluation of any network here: streams, batches, the loop and its checkpoints, BN calibration."""
