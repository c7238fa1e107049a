"""The run folder, by which the other rooms know of a run: files, locks, identity, metadata, step log, state."""
