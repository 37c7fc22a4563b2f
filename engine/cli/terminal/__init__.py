"""What a command shows: streams that may fail, the progress of a run, and words for its end."""
