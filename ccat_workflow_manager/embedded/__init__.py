"""PostgreSQL and Valkey in the user's own directory: no root, no container, no port.

The programs come from wheels (docs/decisions/0001-embedded-services.md); starting and stopping them is done here. Both
listen on a Unix socket in a directory that only the owner may enter, and on nothing else.

Any number of processes may use the server of one directory. The first `start` starts it, the others find it running;
the last `stop` stops it. A user that is killed lets go of the server without stopping it; the next `start` adopts it.
"""

from ccat_workflow_manager.embedded.postgres import EmbeddedPostgres
from ccat_workflow_manager.embedded.server import EmbeddedServer
from ccat_workflow_manager.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedServer", "EmbeddedValkey"]
