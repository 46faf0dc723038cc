"""Options that the commands of `tandem log` share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from service.log.url import LogAddress


class Time(click.ParamType[datetime]):
    """A day or a time in ISO 8601, in UTC unless it says otherwise."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the aware time that `value` spells."""
        try:
            time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is not a date; give 2026-01-31 or 2026-01-31T12:00.", param, ctx)


def _address(_: click.Context, __: click.Parameter, url: str | None) -> LogAddress:
    if not url:
        raise click.UsageError("no prediction log is named; name it with --url or TANDEM_LOG_URL")
    from service.log.url import parse_log_url

    return parse_log_url(url)


url_option = click.option(
    "--url",
    "address",
    metavar="URL",
    envvar="TANDEM_LOG_URL",
    show_envvar=True,
    callback=_address,
    help="The log: 'sqlite:///log.db' or 'postgresql+psycopg://user@host/database'. TANDEM_LOG_PASSWORD_FILE names a "
    "file with PostgreSQL's password.",
)
since_option = click.option("--since", metavar="DATE", type=Time(), help="Only entries from this day or time on.")
until_option = click.option("--until", metavar="DATE", type=Time(), help="Only entries before this day or time.")
digest_option = click.option(
    "--digest", metavar="DIGEST", help="Only entries of this model; the first characters are enough."
)
