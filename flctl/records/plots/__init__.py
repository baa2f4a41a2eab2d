"""Pictures of runs, data and predictions, by matplotlib."""
