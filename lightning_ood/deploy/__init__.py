"""A fitted detector as a folder: calibrate, export, load, predict, watch. Knows no Lightning, W&B or matplotlib."""
