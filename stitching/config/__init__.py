"""YAML with line numbers, errors that a user can mend, and the typed schemas of jobs, sweeps and clusters."""
