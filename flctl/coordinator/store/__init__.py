"""A coordinator's files: the folders of runs, their journals, the audit file."""
