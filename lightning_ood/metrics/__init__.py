"""AUROC, FPR95 and AUPR of scores, their confidence intervals, and paired tests."""
