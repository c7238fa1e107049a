"""The command that prints what a config may say: for editors, and as the page docs/configuration.md."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import app

INTRODUCTION = """\
<!-- not run: it is made by `stitching schema --markdown`, and a test holds it to the schemas -->
# Configuration

Every key of a job, a sweep and a cluster profile. This page is made from the schemas that configs are checked with:
`stitching schema --markdown > docs/configuration.md`. The same schemas let editors complete and check YAML:
`stitching schema job > job.schema.json`, then `# yaml-language-server: $schema=job.schema.json` as the first line of a
config.yml. (In VS Code with its YAML extension; `"yaml.customTags": ["!include scalar"]` in the settings makes it know
`!include`.)

A key with nothing behind it means its default, which is empty below where there is none. Paths start from the folder
of the file that they stand in. A key that is not listed is an error which names the nearest one that is.

## Formats

How a tensor lays out an image: `img` (N, C, H, W), `bhwc` (N, H, W, C), `token` (N, L, C), `bert` (N, P+L, C with P
prefix tokens such as the class token) or `vector` (N, C). With a size it is a list of two: `[img, [256, 14, 14]]` has
[C, H, W] for `img` and `bhwc`, [C, L] without prefix tokens for `token` and `bert`, [C] for `vector`.
"""


class Document(StrEnum):
    """What a schema can be printed of."""

    JOB = "job"
    SWEEP = "sweep"
    CLUSTERS = "clusters"


@app.command(
    epilog="""
Examples: `stitching schema job > job.schema.json`, `stitching schema sweep > sweep.schema.json`,
`stitching schema job --plugin my_parts.py`, `stitching schema --markdown`. In an editor with a YAML language server,
the first line `# yaml-language-server: $schema=job.schema.json` of a config makes it complete and check the rest.
"""
)
def schema(
    document: Annotated[Document, typer.Argument(help="What to print the schema of.")] = Document.JOB,
    plugins: Annotated[
        list[str] | None, typer.Option("--plugin", help="A plugin whose parts and names are to be in it.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of all keys as Markdown.")] = False,
) -> None:
    """Print the JSON schema of jobs, sweeps or clusters.yml, so that editors complete and check them."""
    from stitching.config.plugins import load_plugins
    from stitching.config.yaml import Document as YamlDocument

    load_plugins(YamlDocument(Path.cwd() / "--plugin", {"plugins": plugins or []}))
    print(configuration_page() if markdown else json.dumps(schema_of(document), indent=2))


def schema_of(document: Document) -> dict[str, Any]:
    """The JSON schema of one kind of document."""
    from stitching.config.json_schema import json_schema
    from stitching.launch.schedulers import SCHEDULERS
    from stitching.runs.kinds import KINDS
    from stitching.sweeps.studies import STUDIES

    if document is Document.JOB:
        return json_schema(*(kind.schema for _, kind in KINDS.items()))
    if document is Document.SWEEP:
        return json_schema(*(study.schema for _, study in STUDIES.items()))
    profiles = json_schema(*(each.profile for name, each in SCHEDULERS.items() if each.needs_profile))
    definitions = profiles.pop("$defs", {})
    plugins = {"description": "Files that register schedulers.", "items": {"type": "string"}, "type": "array"}
    return {
        "$schema": profiles.pop("$schema"), "description": "Profiles by the names of clusters.", "type": "object",
        "properties": {"plugins": plugins}, "additionalProperties": profiles, "$defs": definitions,
    }  # fmt: skip


def configuration_page() -> str:
    """The page docs/configuration.md, without a line break at its end."""
    from stitching.config.json_schema import json_schema
    from stitching.config.reference import reference_page
    from stitching.sweeps.studies import STUDIES

    sections = {
        "A job": ("The keys of a config.yml.", schema_of(Document.JOB)),
        "A sweep": (
            "All keys of a job but its network, which every run gets, and these.",
            json_schema(STUDIES["gaps"].schema),
        ),
        "A sweep over one job": (
            "The keys of a sweep with `job:`; docs/studies.md explains them.",
            json_schema(STUDIES["grid"].schema),
        ),
        "A job on several data sets": (
            "All keys of a job, without its data set, and these.",
            json_schema(STUDIES["datasets"].schema),
        ),
        "A cross test": (
            "The keys of a sweep with `ft_configs:`; docs/cross-tests.md explains them.",
            json_schema(STUDIES["cross_test"].schema),
        ),
        "Clusters": (
            "The keys of each profile in sbatch/clusters.yml. Beside the profiles, `plugins` is as in a job.",
            schema_of(Document.CLUSTERS),
        ),
    }
    return reference_page(INTRODUCTION, sections).rstrip("\n")
