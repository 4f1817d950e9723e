"""`ccat-wm webhook`: events that are sent to a URL, through the REST API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from ccat_workflow_manager.commands.arguments import AsJson, OfProject

webhook = typer.Typer(name="webhook", no_args_is_help=True, help="Webhooks: events that are sent to a URL.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a webhook (`ccat-wm webhook list`).")]


def _path(webhook_id: str) -> str:
    return f"/webhooks/{quote(webhook_id, safe='')}"


@webhook.command("list")
def list_(
    project: OfProject = None,
    as_json: AsJson = False,
) -> None:
    """List the webhooks: where each sends which events, and whether it was ended.

    Example:  ccat-wm webhook list
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, pairs_text, print_json, table, when

    with connect() as client:
        found = list(client.items("/webhooks", None, project=project))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("There is no webhook.", err=True)
        return
    rows = [
        (one["id"], one["url"], " ".join(one["types"]) or "all",
         pairs_text({name: value for name, value in {"project": one["project"], **one["filter"]}.items() if value}),
         one["disabled_at"] and f"{when(one['disabled_at'])}: {one['disabled_reason']}")
        for one in found
    ]  # fmt: skip
    console().print(table(("webhook", "url", "events", "only of", "ended (UTC)"), rows, whole=("webhook",)))


@webhook.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the events go: http:// or https://.")],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Such as 'ccat.wm.run.*'. May be repeated. Default: all."),
    ] = None,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Only events of this project.")] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only events of this pipeline.")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Only events of this run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Have events from now on sent to a URL. Prints the secret of the signatures, which is shown only here.

    Example:  ccat-wm webhook create https://example.org/hook --pipeline chai-map

    Exit codes:  0 created,  2 bad input or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    with connect() as client:
        chosen = {"pipeline": pipeline, "run": None if run is None else client.run_id(run)}
        body = {"url": url, "types": types or [], "project": project, "filter": chosen}
        found = client.post("/webhooks", body)
    if as_json:
        print_json(found)
        return
    typer.echo(f"webhook {found['id']}; its secret, which is not shown again:", err=True)
    typer.echo(found["secret"])


@webhook.command()
def delete(webhook_id: Id, as_json: AsJson = False) -> None:
    """Delete a webhook with its deliveries: nothing more is sent.

    Example:  ccat-wm webhook delete 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 deleted,  2 no such webhook, or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    with connect() as client:
        found = client.delete(_path(webhook_id))
    if as_json:
        print_json(found)
    else:
        typer.echo(plain(f"deleted: {found['url']}"))


@webhook.command()
def deliveries(
    webhook_id: Id,
    status: Annotated[str | None, typer.Option(help="PENDING, DELIVERED or DEAD.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of deliveries.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the deliveries of a webhook, the newest first: what was sent, and what the target answered.

    Example:  ccat-wm webhook deliveries 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items(f"{_path(webhook_id)}/deliveries", limit, status=status and status.upper()))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("There is no such delivery.", err=True)
        return
    rows = [
        (one["id"], when(one["created_at"]), one["type"], one["status"], one["attempts"], one["http_status"],
         one["problem"])
        for one in found
    ]  # fmt: skip
    columns = ("delivery", "created (UTC)", "event", "status", "attempts", "answer", "problem")
    console().print(table(columns, rows, right=("attempts",), whole=("delivery",)))


@webhook.command("test")
def send_test(webhook_id: Id, as_json: AsJson = False) -> None:
    """Send the target a signed message, once. `ccat-wm webhook deliveries ID` shows what it answers.

    Example:  ccat-wm webhook test 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 will be sent,  2 no such webhook, or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    with connect() as client:
        found = client.post(f"{_path(webhook_id)}/test")
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found['id']} will be sent; see ccat-wm webhook deliveries {found['webhook_id']}")


@webhook.command()
def redeliver(
    webhook_id: Id,
    delivery: Annotated[
        str | None, typer.Argument(metavar="[DELIVERY]", help="Id of a delivery. Default: all that were given up.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a delivery again, or all that were given up.

    Example:  ccat-wm webhook redeliver 0197c9a4-5b0e-7cc2-9f57-3f0d6c1a2b3c

    Exit codes:  0 will be sent,  2 no such webhook or delivery, or no right,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    one = "" if delivery is None else f"/deliveries/{quote(delivery, safe='')}"
    with connect() as client:
        found = client.post(f"{_path(webhook_id)}{one}/redeliver")
    if as_json:
        print_json(found)
    else:
        typer.echo(f"sent again: {found['deliveries'] if delivery is None else 1}")
