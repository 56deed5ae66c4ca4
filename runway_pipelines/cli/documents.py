"""What is made from the settings and their names: two pages of the documentation, and the IAM policy."""

from __future__ import annotations

from typing import Any

import click

from runway_pipelines.cli.arguments import PartnerArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.results import json_option, print_result


@click.command(
    short_help="Every setting, as a page.",
    epilog=examples(
        "runway-pipelines settings > docs/configuration.md", "runway-pipelines settings --json | jq -r '.[].variable'"
    ),
)
@json_option
def settings(is_json: bool) -> None:
    """Every setting as a Markdown table, as docs/configuration.md has it."""
    from runway_pipelines.settings import sections, settings_markdown

    document = [
        {"variable": section.variable(name), "default": section.default(name), "meaning": field.description}
        for section in sections().values()
        for name, field in section.model_fields.items()
    ]
    print_result(document, lambda: click.echo(settings_markdown(), nl=False), is_json=is_json)


@click.command(
    short_help="Every name and path of the data, as a page.",
    epilog=examples("runway-pipelines data-contracts > docs/data-contracts.md"),
)
def data_contracts() -> None:
    """Every name and path by which data and data stores are found, as docs/data-contracts.md has them."""
    from runway_pipelines.cli.data_contracts import page

    click.echo(page(), nl=False)


@click.command(
    short_help="What a role may do in AWS, as a policy.",
    epilog=examples(
        "runway-pipelines iam-policy --account 123456789012 --for pipeline",
        "runway-pipelines iam-policy --account 123456789012 --partner acme",
    ),
)
@click.option("--account", required=True, help="The AWS account's id.")
@click.option(
    "--for",
    "process",
    type=click.Choice(["all", "pipeline", "code-server", "stream"]),
    default="all",
    show_default=True,
    help="Which processes the role is for: all, all but the stream, the code server alone, or the stream, which "
    "only reads.",
)
@click.option("--partition", default="aws", show_default=True, help="aws, aws-us-gov or aws-cn.")
@click.option("--partner", "partners", multiple=True, type=PartnerArgument(), help="Only its secret; repeatable.")
@click.option("--db-resource-id", "db_resource_ids", multiple=True, help="RDS' id of an instance (db-...); repeatable.")
@click.option("--db-user", "more_db_users", multiple=True, help="Another IAM user, such as Dagster's; repeatable.")
@click.option("--secret-arn", "more_secrets", multiple=True, help="A secret that no name leads to; repeatable.")
@click.option("--kms-key", "kms_keys", multiple=True, metavar="ARN", help="A key of your own; repeatable.")
@click.option("--with-owner", is_flag=True, help="For whoever runs `identity migrate --apply`.")
def iam_policy(**options: Any) -> None:
    """What a role may do in AWS, and nothing more: a policy made from the settings' names."""
    from runway_pipelines.cli.iam_policy import PolicyOptions, Process, policy
    from runway_pipelines.settings import load_settings

    document = policy(load_settings(), PolicyOptions(**options | {"process": Process(options["process"])}))
    print_result(document, lambda: None, is_json=True)
