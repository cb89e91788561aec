"""Bad and doubtful inputs for every command, made systematically, and what is right for each."""
