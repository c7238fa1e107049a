"""The run folder: its files, lock, identity, metadata, step log and state.

Everything that another room knows of a run is in its folder. Others use `RunFolder` (`folder`), `identity`,
`state_on_disk` and `ExpectedRun` (`state`), `StepLog` and `read_steps` (`step_log`), `StopRequest` (`stopping`) and
`JobKind` (`kinds`), the seam for what a job may be.
"""
