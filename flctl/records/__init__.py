"""What a run leaves behind, in the forms that other programs read."""
