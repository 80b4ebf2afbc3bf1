"""From scores to AUROC, FPR95 and AUPR, their intervals, and paired tests."""
