"""The Python client: ``from momoseek.client import Client``."""

from service.client import AsyncClient, Client, ClientError, Indexed, Refused, Unreachable

__all__ = ["AsyncClient", "Client", "ClientError", "Indexed", "Refused", "Unreachable"]
