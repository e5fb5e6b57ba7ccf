"""One command per benchmark: each measures the job against a named peer or a stated goal in one run. Nothing imports it."""
