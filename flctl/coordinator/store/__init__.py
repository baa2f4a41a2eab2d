"""What a coordinator keeps on disk: the folders of runs, their journals, the audit file."""
