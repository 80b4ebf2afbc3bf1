"""From the table of scores to everything a run leaves behind: metrics, table, pictures, page, logger."""
