"""The report to click through: one HTML file about a run or a folder of predictions, which needs no network."""
