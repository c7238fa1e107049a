"""What a user writes: YAML with line numbers, errors, the typed schemas of jobs, sweeps and clusters, registries.

The lowest room; it knows nothing of torch. Others use `UserError` and its kin (`errors`), `Schema` and `complaint`
(`schema`), `Registry` (`registries`), the schemas themselves (`job_config`, `train_config`, `sweep`, `clusters`), parts
in YAML (`parts`), and what reads files (`yaml`, `job_files`, `plugins`, `user_code`). `json_schema` and `reference`
make what editors and docs/configuration.md say of all keys.
"""
