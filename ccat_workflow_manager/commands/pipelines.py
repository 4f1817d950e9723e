"""`ccat-wm pipeline`: pipelines as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ccat_workflow_manager.commands.arguments import AsJson, EndsAt, OfProject, Why, terms
from ccat_workflow_manager.commands.pipeline_ledger import ledger
from ccat_workflow_manager.errors import NotFound

pipeline = typer.Typer(
    name="pipeline", no_args_is_help=True, help="Pipelines as files: validate, apply, compare, show."
)

pipeline.command()(ledger)

File = Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON; - is standard input.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a pipeline.")]


@pipeline.command()
def apply(file: File, as_json: AsJson = False) -> None:
    """Add the definition in a file as a version of its pipeline.

    Equal content changes nothing. Versions are never overwritten: a run keeps the version it was created with.

    Example:  ccat-wm pipeline apply chai-map.yaml

    Exit codes:  0 applied or unchanged,  2 the file has a fault,  3 no service.
    """
    answer, changed = _put(file)
    if _printed(answer, as_json):
        return
    typer.echo(f"{answer['name']} is {'now' if changed else 'unchanged'} at version {answer['version']}")


@pipeline.command()
def validate(file: File, as_json: AsJson = False) -> None:
    """Check the definition in a file, and the files that it names, without a service.

    Example:  ccat-wm pipeline validate chai-map.yaml

    Exit codes:  0 it has no fault,  2 it has.
    """
    from ccat_workflow_manager.commands.arguments import fault_in_file, read_pipeline
    from ccat_workflow_manager.commands.output import print_json
    from ccat_workflow_manager.definition.spec import all_files, canonical, parse_pipeline
    from ccat_workflow_manager.errors import Invalid
    from ccat_workflow_manager.json_values import counted

    definition = read_pipeline(file)
    try:
        spec = parse_pipeline(definition)
    except Invalid as error:
        raise fault_in_file(file, error) from None
    if as_json:
        print_json({"name": spec.name, "content_hash": spec.content_hash, "definition": canonical(spec)})
        return
    parts = [counted(len(spec.steps), "step")]
    if files := list(all_files(spec)):
        parts.append(f"{counted(len(files), 'file')} of {sum(each.size for _, each in files)} bytes")
    if inputs := len(spec.inputs) + sum(len(step.inputs) for step in spec.steps):
        parts.append(f"{counted(inputs, 'input')} to be looked up when a run starts")
    typer.echo(f"{spec.name} is valid: {', '.join(parts)}")


@pipeline.command("list")
def list_(project: OfProject = None, as_json: AsJson = False) -> None:
    """List pipelines with their newest versions.

    Example:  ccat-wm pipeline list
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import console, print_json, table, when

    with connect() as client:
        found = list(client.items("/pipelines", None, project=project))
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("There is no pipeline yet; create one with `ccat-wm pipeline apply FILE`.", err=True)
        return
    rows = [
        (one["name"], one["version"], "yes" if one["enabled"] else "no", one["priority"], when(one["updated_at"]),
         one["description"])
        for one in found
    ]  # fmt: skip
    columns = ("pipeline", "version", "enabled", "priority", "updated (UTC)", "description")
    console().print(table(columns, rows, right=("version", "priority")))


@pipeline.command()
def show(
    name: Name,
    version: Annotated[int | None, typer.Option(min=1, help="An older version (default: the newest).")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the definition of a pipeline as YAML, ready to be applied.

    Example:  ccat-wm pipeline show chai-map --version 2 > old.yaml
    """
    from ccat_workflow_manager.commands.client import connect, suggesting
    from ccat_workflow_manager.commands.output import print_json, when

    with connect() as client, suggesting(client, name):
        if version is None:
            found = client.get(_path(name))
        else:
            found = _version(client.items(f"{_path(name)}/versions", None), name, version)
    if as_json:
        print_json(found)
        return
    state = "" if found.get("enabled", True) else ", disabled"
    typer.echo(f"# version {found['version']} of {when(found.get('updated_at') or found['created_at'])} UTC{state}")
    typer.echo(_as_yaml(found["definition"]), nl=False)


@pipeline.command()
def plan(file: File, as_json: AsJson = False) -> None:
    """Print what `pipeline apply` would change, as a unified diff; nothing is changed.

    Example:  ccat-wm pipeline plan chai-map.yaml

    Exit codes:  0 with or without differences,  2 the file has a fault,  3 no service.
    """
    planned, _ = _put(file, dry_run=True)
    if _printed(planned, as_json):
        return
    if planned["changed"]:
        typer.echo(planned["diff"], nl=False)
    else:
        typer.echo(f"{planned['name']} is the same as version {planned['version']}", err=True)


def _put(file: str, **query: bool) -> tuple[Any, bool]:
    from ccat_workflow_manager.commands.arguments import fault_in_file, read_pipeline
    from ccat_workflow_manager.commands.client import ApiRefused, connect

    definition = read_pipeline(file)
    name = _name_in(definition, file)
    with connect() as client:
        try:
            return client.put(_path(name), definition, **query)
        except ApiRefused as refusal:
            _checked_name(definition, file)  # the service refuses an invalid name before it checks the rest
            raise fault_in_file(file, refusal) from None


def _printed(answer: Mapping[str, Any], as_json: bool) -> bool:
    """Print the JSON, or else the warnings. Returns whether it was the JSON."""
    from ccat_workflow_manager.commands.output import print_json

    if as_json:
        print_json(answer)
    else:
        for warning in answer.get("warnings", ()):
            typer.echo(f"warning: {warning}", err=True)
    return as_json


@pipeline.command()
def enable(name: Name, why: Why = "", until: EndsAt = "", as_json: AsJson = False) -> None:
    """Accept new runs of a pipeline again.

    Example:  ccat-wm pipeline enable chai-map
    """
    _change(name, {"enabled": True, **terms(why, until)}, as_json)


@pipeline.command()
def disable(name: Name, why: Why = "", until: EndsAt = "", as_json: AsJson = False) -> None:
    """Refuse new runs of a pipeline; existing runs continue.

    Example:  ccat-wm pipeline disable chai-map --until +2h
    """
    _change(name, {"enabled": False, **terms(why, until)}, as_json)


@pipeline.command("set")
def set_(
    name: Name,
    priority: Annotated[int, typer.Option(help="From -1000 to 1000; runs with a higher one are launched first.")],
    why: Why = "",
    until: EndsAt = "",
    as_json: AsJson = False,
) -> None:
    """Set the priority of the future runs of a pipeline.

    Example:  ccat-wm pipeline set chai-map --priority 100 --until +8h
    """
    _change(name, {"priority": priority, **terms(why, until)}, as_json)


def _change(name: str, change: dict[str, Any], as_json: bool) -> None:
    from ccat_workflow_manager.commands.client import connect, suggesting
    from ccat_workflow_manager.commands.output import print_json

    with connect() as client, suggesting(client, name):
        answer = client.patch(_path(name), change)
    if as_json:
        print_json(answer)
    else:
        state = "is enabled" if answer["enabled"] else "is disabled"
        done = f"has the priority {answer['priority']}" if "priority" in change else state
        typer.echo(f"{name} {done}" + (f" until {change['until']}" if "until" in change else ""))


def _path(name: str) -> str:
    return f"/pipelines/{quote(name, safe='')}"


def _name_in(definition: Any, file: str) -> str:
    """The name for the URL of the pipeline. The service finds all other faults."""
    name = definition.get("name") if isinstance(definition, dict) else None
    fits = isinstance(name, str) and "/" not in name and name.strip(". ")
    return str(name) if fits else _checked_name(definition, file)


def _checked_name(definition: Any, file: str) -> str:
    """The name of a valid definition. Raises WrongUsage with every fault otherwise."""
    from ccat_workflow_manager.commands.arguments import fault_in_file
    from ccat_workflow_manager.definition.spec import parse_pipeline
    from ccat_workflow_manager.errors import Invalid

    try:
        return parse_pipeline(definition).name
    except Invalid as error:
        raise fault_in_file(file, error) from None


def _as_yaml(definition: Any) -> str:
    import yaml

    return yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=120)


def _version(versions: Iterable[Mapping[str, Any]], name: str, wanted: int) -> dict[str, Any]:
    for each in versions:
        if each["version"] == wanted:
            return dict(each)
    raise NotFound(f"the pipeline {name} has no version {wanted}")
