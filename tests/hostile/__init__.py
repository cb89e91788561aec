"""Generated invalid and questionable inputs for every command, with the expected outcome of each."""
