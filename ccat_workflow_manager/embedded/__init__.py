"""PostgreSQL and Valkey in the user's own directory: no root, no container, no port.

The programs come from wheels (docs/decisions/0001-embedded-services.md). Both servers listen only on a Unix socket in a
directory that only the owner may enter.

Any number of processes may use the server of one directory. The first `start` starts it, the last `stop` stops it. When
a process that uses it is killed, the server goes on, and the next `start` adopts it.
"""

from ccat_workflow_manager.embedded.postgres import EmbeddedPostgres
from ccat_workflow_manager.embedded.server import EmbeddedServer
from ccat_workflow_manager.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedServer", "EmbeddedValkey"]
