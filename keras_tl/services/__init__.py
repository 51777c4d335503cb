"""A MongoDB and a Kafka on this machine, started and stopped for you.

Both listen on loopback only and have no authentication: every user of this machine can reach
them, so on a shared host use servers of your own. Nothing here is imported by the rest of
`keras_tl`, which needs only the two addresses.
"""

from keras_tl.services.errors import ServiceError
from keras_tl.services.stack import Stack, down, status, up

__all__ = ["ServiceError", "Stack", "down", "status", "up"]
