"""The job kind `train`: one loop trains one job, or several that share a pass over the data.

Read `trainer.py` first: the loop. `session.train` sets it up; `run.py` is one training, `saving.py` writes its files,
`learner.py` has its network and optimizer, `position.py` how far it has come. Others use `session.train`,
`job.TrainKind`, `job_data`, `fit_adapters`, `failures` and `distributed`, and add to `losses.LOSSES`, `metrics.METRICS`
and `objectives.OBJECTIVES`.
"""
