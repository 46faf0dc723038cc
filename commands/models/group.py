"""`tandem models`: the models in the local registry and in remote ones."""

from __future__ import annotations

import click

from commands.lazy import Commands, LazyGroup

COMMANDS: Commands = {
    "list": ("commands.models.list:list_models", "List every version of every model, with its aliases."),
    "show": ("commands.models.show:show", "Show a model: files, digests, precisions, accuracy."),
    "tag": ("commands.models.tag:tag", "Put aliases on a version, and take them off the one that had them."),
    "push": ("commands.models.push:push", "Push a model to a remote registry."),
    "pull": ("commands.models.pull:pull", "Pull a model from a remote registry."),
    "save": ("commands.models.save:save", "Save a model's files in a folder."),
    "sign": ("commands.models.sign:sign", "Sign a model."),
    "attach": ("commands.models.attach:attach", "Attach a file to a model, such as an SBOM or a parity report."),
    "verify": ("commands.models.verify:verify", "Compare every byte of models with its digest."),
    "rm": ("commands.models.rm:rm", "Remove a version with its files, or an alias alone."),
    "gc": ("commands.models.gc:gc", "Show files that no model uses; with --yes, delete them."),
}


@click.group(
    cls=LazyGroup, table=COMMANDS, epilog="\b\nExample:\n  tandem models list\n  tandem models tag digits:3 production"
)
def models() -> None:
    """List, show, tag, push, pull, sign, verify and remove models.

    A reference that begins with a host, 'ghcr.io/acme/digits:3', names a model in a remote registry. The local registry
    is an OCI image layout in $TANDEM_HOME/registry, or in ~/.tandem/registry if TANDEM_HOME is not set.
    """
