"""All wrappers around the replicas of the same objects, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from streaming.errors import ConfigError
from streaming.resilience.context import DEFAULT_CONTEXT, Context
from streaming.resilience.failover import Failover
from streaming.resilience.guard import Guard
from streaming.resilience.hedge import Hedge
from streaming.resilience.retry import Retry
from streaming.sources.base import DataSource


def stack(sources: Sequence[DataSource], context: Context = DEFAULT_CONTEXT) -> Retry:
    """Return one source made of replicas, which survives their failures.

    `Retry(Hedge(Failover([Guard(replica), ...])))`; a single replica needs no `Failover`. It has the name and the
    configuration of the first replica, and closes all of them.

    Args:
        sources: the replicas, in the order of preference.
        context: settings and clock of all wrappers.

    Raises:
        ConfigError: if there is no source.
    """
    if not sources:
        raise ConfigError("no replicas: give at least one source")
    guards = [Guard(source, context) for source in sources]
    replicas = guards[0] if len(guards) == 1 else Failover(guards, context)
    return Retry(Hedge(replicas, context), context)
