"""The Python client: ``from momoseek.client import Client``."""

from service.client import Client, ClientError, Indexed, Refused, Unreachable
from service.client_async import AsyncClient

__all__ = ["AsyncClient", "Client", "ClientError", "Indexed", "Refused", "Unreachable"]
